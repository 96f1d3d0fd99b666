"""The first example of the README of model-runner-client, with only its imports changed."""

import asyncio

from runtime.models import Argument, DynamicSubclassModelConcurrentRunner, Variant, VariantType, encode_data


async def main():
    concurrent_runner = DynamicSubclassModelConcurrentRunner(
        timeout=10,
        crunch_id="bird-game",
        host="localhost",
        port=8000,
        base_classname="birdgame.trackers.trackerbase.TrackerBase",
        # secure_credentials=secure_credentials,
    )

    # Initialize communication with the model nodes to fetch
    # models that want to predict and set up the model cluster
    await concurrent_runner.init()

    async def prediction_call():
        while True:
            # Your data to be predicted (X)
            payload = {
                "falcon_location": 21.179864629354732,
                "time": 230.96231205799998,
                "dove_location": 19.164986723324326,
                "falcon_id": 1,
            }

            # Encode data as binary and tick
            await concurrent_runner.call(
                method_name="tick",
                arguments=(
                    # args
                    # The order of positional arguments is strictly enforced and must match the model's method
                    # signature.
                    # Adding a new positional argument during a crunch would break existing model implementations.
                    [
                        Argument(
                            position=1,
                            data=Variant(type=VariantType.JSON, value=encode_data(VariantType.JSON, payload)),
                        )
                    ],
                    # kwargs
                    # These keyword arguments are passed only if the model's method explicitly expects them.
                    # It is recommended to use kwargs for optional parameters, as they can be introduced without
                    # breaking compatibility.
                    [],
                ),
            )

            # predict now
            result = await concurrent_runner.call(method_name="predict")

            # You receive a dictionary of predictions
            for model_runner, model_predict_result in result.items():
                print(f"{model_runner.model_id}: {model_predict_result}")

            # This pause (30s) simulates other work
            # the Coordinator might perform between predictions
            await asyncio.sleep(30)

    # Keep the cluster updated with `concurrent_runner.sync()`,
    # which maintains a permanent WebSocket connection.
    # Then run our prediction process.
    await asyncio.gather(asyncio.create_task(concurrent_runner.sync()), asyncio.create_task(prediction_call()))


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except KeyboardInterrupt:
        print("\nReceived exit signal, shutting down gracefully.")
