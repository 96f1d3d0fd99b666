from dataclasses import dataclass


@dataclass
class Inputs:
    input: int


@dataclass
class Outputs:
    output: int
    counter: int


@dataclass
class State:
    counter: int = 0


async def handler(ctx, inputs: Inputs) -> Outputs:
    ctx.state.counter += 1
    adder = int(await ctx.configuration.get("adder"))
    return Outputs(output=inputs.input + adder, counter=ctx.state.counter)
