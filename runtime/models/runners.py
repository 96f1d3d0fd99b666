"""Calls of every model of a cluster at the same time: the entry point of a coordinator.

    runner = DynamicSubclassModelConcurrentRunner(
        timeout=10, crunch_id="bird-game", host="localhost", port=8000, base_classname="birdgame.trackers.TrackerBase"
    )
    await runner.init()
    results = await runner.call("predict")                   # {ModelRunner: ModelPredictResult}, one for each model
    await asyncio.gather(runner.sync(), predict_for_ever())  # sync raises when the coordinator cannot go on

`fan_out.py` is a call, `cluster.py` follows who is there, `penalties.py` decides who is called.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

from runtime.bus.base import Bus
from runtime.bus.nats import NatsBus
from runtime.clock import Clock, SystemClock
from runtime.errors import InvalidCoordinatorUsageError
from runtime.models.address import find_server
from runtime.models.background import Background
from runtime.models.call_requests import (
    Arguments,
    CallRequests,
    as_arguments,
    check_call_id,
    check_class_name,
    checked_timeout_s,
    typed_arguments,
)
from runtime.models.cluster import ModelCluster
from runtime.models.credentials import SecureCredentials
from runtime.models.fan_out import FanOut
from runtime.models.link import HostLink
from runtime.models.model_runner import DynamicSubclassModelRunner, ModelRunner
from runtime.models.penalties import DEFAULT_MAX_FAILURES, DEFAULT_MAX_TIMEOUTS, Limits
from runtime.models.results import Ending, ModelPredictResult, Reason
from runtime.spec import names
from runtime.wire import MAX_CLAIM_BYTES

# Seconds that `init` waits for the models that are there; late ones join when they are ready.
READY_TIMEOUT_S = 10.0

Results = dict[ModelRunner, ModelPredictResult]


class ModelConcurrentRunner(ABC):
    """Calls the models of one cluster. A derivation supplies `create_model_runner`, and methods on `call_models`.

    A failure or a timeout of a model is an ordinary result. What the coordinator does wrong is raised, as an
    InvalidCoordinatorUsageError or EncodingError, before anything is sent.
    """

    def __init__(
        self,
        timeout: float,
        crunch_id: str,
        host: str = "",
        port: int | None = None,
        max_consecutive_failures: int = DEFAULT_MAX_FAILURES,
        max_consecutive_timeouts: int = DEFAULT_MAX_TIMEOUTS,
        secure_credentials: SecureCredentials | None = None,
        report_failure: bool = True,
        *,
        servers: Sequence[str] = (),
        connection: Bus | None = None,
        max_claim_bytes: int = MAX_CLAIM_BYTES,
        clock: Clock | None = None,
    ) -> None:
        """Nothing is connected yet.

        timeout: of a call, in seconds. crunch_id: name of the cluster. host, port: a listener of NATS, in place of
        which `servers`, its addresses, or `connection`, which stays open, may be given. max_consecutive_failures,
        max_consecutive_timeouts: after more than so many in a row a model is reported; 0 for never. report_failure:
        False leaves such a model out for a while, and tells only the log. max_claim_bytes: largest body of a call.
        """
        if not names.is_name(crunch_id):
            suggestion = f"; did you mean {names.suggest_name(str(crunch_id))!r}?"
            raise InvalidCoordinatorUsageError(f"crunch_id is {crunch_id!r}, use a-z, 0-9 and hyphens{suggestion}")
        self.timeout = checked_timeout_s(timeout)
        self.host = host
        self.port = port
        self.secure_credentials = secure_credentials
        self._servers = list(servers)
        self._connection = connection
        clock = clock or SystemClock()
        self._background = Background(lambda error: self.model_cluster.fail(error))
        self._link = HostLink(
            cluster=crunch_id,
            clock=clock,
            background=self._background,
            timeout_s=self.timeout,
            max_claim_bytes=max_claim_bytes,
        )
        self.model_cluster = ModelCluster(
            crunch_id,
            self._link,
            self.create_model_runner,
            limits=Limits(failures=max_consecutive_failures, timeouts=max_consecutive_timeouts),
            report_failure=report_failure,
        )

    @abstractmethod
    def create_model_runner(self, **kwargs: Any) -> ModelRunner:
        """Return the runner of a model that has turned up; `kwargs` are those of `ModelRunner`. Called on the loop."""
        ...

    # --- life ---

    async def __aenter__(self) -> Self:
        try:
            await self.init()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def init(self, ready_timeout: float = READY_TIMEOUT_S) -> None:
        """Connect and set up the models that are there; called once. From then on the cluster is followed.

        Returns when each of them is ready or has failed, at the latest after `ready_timeout` seconds. Raises BusError
        when NATS cannot be reached or does not let us in, and InvalidCoordinatorUsageError.
        """
        if self._link.connection is not None:
            raise InvalidCoordinatorUsageError("init() was called before; the models are followed without it")
        self._link.connection = self._connection or await self._connect()
        await self.model_cluster.init(self._link.connection, ready_timeout)

    async def sync(self) -> None:
        """Run beside the calls for ever; returns after `close`.

        Raises BusClosedError when the connection is gone for good, InvalidCoordinatorUsageError when a host refuses
        how it is to be set up, and the defect that a task of the coordinator has died of.
        """
        await self.model_cluster.sync()

    async def close(self) -> None:
        """End everything; models go on without us. Repeating it is fine."""
        await self.model_cluster.close()
        await self._background.close()
        self._link.is_closed = True
        if self._link.connection is not None and self._connection is None:
            await self._link.connection.close()

    async def _connect(self) -> Bus:
        credentials = self.secure_credentials
        servers = self._servers or [await find_server(self.host, self.port, secure=credentials is not None)]
        return await NatsBus.connect(
            servers,
            name=f"coordinator of {self.model_cluster.crunch_id}",
            clock=self._link.clock,
            credentials=credentials.path if credentials is not None else None,
        )

    # --- calls ---

    async def call_models(
        self,
        method_name: str,
        arguments: Arguments,
        timeout: float | None = None,
        model_runs: Iterable[ModelRunner] | None = None,
        call_id: str = "",
    ) -> Results:
        """Call a method of every model, or of `model_runs`; return one result for each, within `timeout` seconds.

        call_id: a call with the id of an earlier one gets the hosts' answers to that, and does not run again; "" for
        one of its own. Never waits for a model that has left, nor for one that is left out after timeouts. Cancelling
        it is safe; what was asked may still be done.
        """
        timeout_s = self.timeout if timeout is None else checked_timeout_s(timeout)
        requests = CallRequests(method_name, arguments)
        check_call_id(call_id)
        self._link.check_open()
        models = self._selected(model_runs)
        fan_out = FanOut(self._link, models, timeout_s, call_id)
        bodies: dict[ModelRunner, bytes] = {}
        for model in models:
            if not self.model_cluster.takes_turn(model):
                fan_out.end(model, Ending(Reason.SKIPPED, f"{model.consecutive_timeouts} timeouts in a row"))
            elif requests.are_shared:
                bodies[model] = self._checked(requests.body_for(model))
            else:
                self._add_own(bodies, model, requests, fan_out)
        await fan_out.run(bodies)
        for model in models:
            self.model_cluster.judge(model, fan_out.endings[model])
        return {model: fan_out.endings[model].result(model, fan_out.times_us[model]) for model in models}

    def _selected(self, model_runs: Iterable[ModelRunner] | None) -> list[ModelRunner]:
        if model_runs is None:
            return list(self.model_cluster.models_run.values())
        models = list(dict.fromkeys(model_runs))
        for model in models:
            if not isinstance(model, ModelRunner):
                raise InvalidCoordinatorUsageError(f"model_runs holds {model!r}, which is no ModelRunner")
        return models

    def _checked(self, body: bytes) -> bytes:
        self._link.check_size(body)
        return body

    def _add_own(
        self, bodies: dict[ModelRunner, bytes], model: ModelRunner, requests: CallRequests, fan_out: FanOut
    ) -> None:
        """Make the request of one model; what goes wrong, in the user's function as well, is the end for this model."""
        try:
            bodies[model] = self._checked(requests.body_for(model))
        except Exception as error:
            fan_out.end(model, Ending(Reason.ARGUMENTS, f"{type(error).__name__}: {error}"))


class DynamicSubclassModelConcurrentRunner(ModelConcurrentRunner):
    """Calls models whose class is found by its base class, any public method by its name."""

    def __init__(
        self,
        timeout: float,
        crunch_id: str,
        host: str = "",
        port: int | None = None,
        base_classname: str = "",
        instance_args: Sequence[Any] | None = None,
        instance_kwargs: Mapping[str, Any] | Sequence[Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """base_classname: `package.module.Class`. instance_args, instance_kwargs: what the class is made with, as
        Arguments and KwArguments or plain values. The others are those of `ModelConcurrentRunner`.
        """
        check_class_name(base_classname)
        self.base_classname = base_classname
        self.instance_args, self.instance_kwargs = typed_arguments(instance_args or (), instance_kwargs or ())
        super().__init__(timeout, crunch_id, host, port, **kwargs)

    def create_model_runner(self, **kwargs: Any) -> DynamicSubclassModelRunner:
        return DynamicSubclassModelRunner(self.base_classname, self.instance_args, self.instance_kwargs, **kwargs)

    async def call(
        self,
        method_name: str,
        arguments: Arguments | None = None,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | Sequence[Any] = (),
        timeout: float | None = None,
        model_runs: Iterable[ModelRunner] | None = None,
        call_id: str = "",
    ) -> Results:
        """Call a method of all models at the same time; return one result for each.

        arguments: `([Argument, …], [KwArgument, …])`, or a function of the model runner that returns that, called for
        each model. args, kwargs: the same for all, as plain values. timeout: in seconds, in place of the runner's own.
        model_runs: the models to call, none of them if it is empty; by default all of `model_cluster.models_run`.
        call_id: see `call_models`.
        """
        return await self.call_models(method_name, as_arguments(arguments, args, kwargs), timeout, model_runs, call_id)
