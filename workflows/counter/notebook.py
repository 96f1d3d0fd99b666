"""The tour of drivers as one program: python workflows/counter/notebook.py

Everything happens in this process and in memory. With `init("nats", servers="nats://…")` the workflow and its drivers
are processes, and drivers come from modules: a function of this script is then refused.
"""

import logging
import random
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from runtime import init
from runtime.drivers import (
    DriverNotFoundError,
    DriverParameters,
    DriverResources,
    DriverResourcesRequest,
    FastAPIClient,
    FastAPIClientError,
    FastAPIDriver,
    PipelineDriver,
    RestrictedInferenceProcess,
    SourceSinkDriver,
)
from runtime.drivers.sinks.dummy import DummySink
from runtime.drivers.sources.dummy import DummySource

logging.basicConfig(level=logging.WARNING)

rt = init("debug")
proc = rt.start_inference(Path(__file__).parent)

print("manual inference:", proc.predict({"input": 1}).result())

# --- FastAPIDriver ---

fast_api_driver_proc = proc.add_driver("webapi", FastAPIDriver)
assert fast_api_driver_proc == proc.get_driver("webapi")

http_service = fast_api_driver_proc.get_service("http")
print("FastAPIDriver services:", ", ".join([s["name"] for s in fast_api_driver_proc.list_services()]))
host = http_service["taggedAddresses"]["wan"]["address"]
port = http_service["taggedAddresses"]["wan"]["port"]
print(f"The API server should be available on http://{host}:{port}")

client = FastAPIClient(process=fast_api_driver_proc)

# wait for the API server to be online
client.wait()

# regular predict
print("HTTP predict result:", client.predict({"input": 1}))

# prediction task
task_id = client.predict_task({"input": 1})
print("HTTP prediction task:", task_id)
print("HTTP prediction task result:", client.task_result(task_id))

try:
    # stop the driver
    proc.remove_driver(fast_api_driver_proc.pid)
except DriverNotFoundError as e:
    print("Could not remove driver:", e)

print("* manual inference still possible:", proc.predict({"input": 1}).result())

print("* client not responding (as expected):")
try:
    client.predict({"input": 1})
except FastAPIClientError as e:
    print(e)

try:
    client.wait(timeout=1)
except FastAPIClientError as e:
    print("Can also be tested via `client.wait()`:", e)

fast_api_driver_proc = proc.add_driver("webapi", FastAPIDriver)
client = FastAPIClient(process=fast_api_driver_proc)
client.wait()
print("Server back online!")

fast_api_params = fast_api_driver_proc.get_parameters()
print(f"Current FastAPI parameters: {fast_api_params}")
fast_api_params.task_ttl = 10
fast_api_driver_proc.set_parameters(fast_api_params)
print(f"Updated FastAPI parameters: {fast_api_driver_proc.get_parameters()}")

# --- SourceSinkDriver ---


# Only the runtime makes drivers, so what is added is a function that returns one.
def create_source_sink_driver() -> SourceSinkDriver:
    driver = SourceSinkDriver()

    dummy_source = DummySource(format={"input": int}, params=DummySource.parameters(rate=10))
    dummy_sink = DummySink(drain=lambda x: print("\rdraining ", x, end=""))

    driver.add_source(ref="source", source=dummy_source)
    driver.add_sink(ref="sink", sink=dummy_sink)
    return driver


driver_proc = proc.add_driver("dummy-stream", create_source_sink_driver)
print(f"SourceSinkDriver parameters: {driver_proc.get_parameters()}")
print("SourceSinkDriver services:", ", ".join([s["name"] for s in driver_proc.list_services()]))
time.sleep(1)
print("")
print("Stopping source sink driver")
proc.remove_driver(driver_proc.pid)

# --- a driver of one's own ---


@dataclass
class CustomDriverParameters(DriverParameters):
    param: int = 0


class CustomDriver(PipelineDriver):
    """Stress test the inference process and print the average execution time."""

    def __init__(self, predictions: int = 10, params: CustomDriverParameters | None = None) -> None:
        self._predictions = predictions
        self._params = params or CustomDriverParameters()
        self._running = False

    def resources_request(self) -> DriverResourcesRequest:
        # Optionally request resources
        return DriverResourcesRequest(ports=["dummy-port"])

    def run(self, inference: RestrictedInferenceProcess, resources: DriverResources) -> None:
        print("Starting custom driver")
        print("Assigned ports:", resources.ports)
        self._running = True

        # create new state id
        state_id = str(uuid4())

        times = []
        results = []
        for _ in range(self._predictions):
            if not self._running:
                # respect the `stop` action and stop the loop
                print("Prematurely stopping test!")
                break
            start = time.time()
            result = inference.predict(inputs={"input": random.randrange(100)}, sid=state_id).result()
            times.append(time.time() - start)
            results.append(result)

        if len(results) >= 2:
            print(f"First result: {results[0]}")
            print(f"Second result: {results[1]}")
        print(f"Average time over {len(times)} predictions: {statistics.mean(times) * 1000:.1f}ms")

    def stop(self) -> None:
        self._running = False

    def get_parameters(self) -> CustomDriverParameters:
        """Get parameters."""
        return self._params

    def set_parameters(self, parameters: CustomDriverParameters) -> None:
        """Set parameters."""
        self._params = parameters


driver_proc = proc.add_driver("custom", CustomDriver, predictions=1000)
# `proc.remove_driver(driver_proc.pid)` would stop it in the middle.
while driver_proc.state == "running":
    time.sleep(0.05)
print("custom driver:", driver_proc.state)

# Stop the inference process including all drivers, then the runtime.
proc.stop()
rt.stop()
