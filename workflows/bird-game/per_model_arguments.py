"""Arguments of each model by a function, as in the README of model-runner-client, whose call is taken as it is.

`coordinator.py` is that README's first example.
"""

import asyncio

from runtime.models import (
    Argument,
    DynamicSubclassModelConcurrentRunner,
    DynamicSubclassModelRunner,
    KwArgument,
    Variant,
    VariantType,
    encode_data,
)


class Coordinator:
    def __init__(self):
        self.players = {model_id: {"wealth": 100.0} for model_id in ("drift", "scholar", "moody")}

    async def main(self):
        concurrent_runner = DynamicSubclassModelConcurrentRunner(
            timeout=10,
            crunch_id="bird-game",
            host="localhost",
            port=8000,
            base_classname="birdgame.trackers.trackerbase.TrackerBase",
        )
        await concurrent_runner.init()

        # Common argument encoded once
        payload_arg = Argument(
            position=1,
            data=Variant(
                type=VariantType.JSON,
                value=encode_data(
                    VariantType.JSON,
                    {
                        "falcon_location": 21.179864629354732,
                        "time": 230.96231205799998,
                        "dove_location": 19.164986723324326,
                        "falcon_id": 1,
                    },
                ),
            ),
        )

        def prepare_arguments(model_runner: DynamicSubclassModelRunner):
            # Use model_runner.model_id to keep track of model-specific information
            player_uid = model_runner.model_id

            performance_metrics_kwarg = KwArgument(
                keyword="performance_metrics",
                data=Variant(
                    type=VariantType.JSON,
                    value=encode_data(
                        VariantType.JSON,
                        {
                            "wealth": self.players[player_uid]["wealth"],  # load model-specific information
                            "likelihood_ewa": self.players[player_uid]["wealth"],
                        },
                    ),
                ),
            )

            return (
                # args
                # The order of positional arguments is strictly enforced and must match the model's method signature.
                # Adding a new positional argument during a crunch would break existing model implementations.
                [payload_arg],
                # kwargs
                # These keyword arguments are passed only if the model's method explicitly expects them.
                # It is recommended to use kwargs for optional parameters, as they can be introduced without
                # breaking compatibility.
                [performance_metrics_kwarg],
            )

        result = await concurrent_runner.call(
            method_name="tick",
            arguments=prepare_arguments,
        )

        for model_runner, model_predict_result in result.items():
            print(f"{model_runner.model_id}: {model_predict_result}")
        await concurrent_runner.close()


if __name__ == "__main__":
    asyncio.run(Coordinator().main())
