"""Stores every prediction beside its true value, and measures it."""

from messages import Reading, Verdict


async def handler(ctx, reading: Reading) -> Verdict:
    correct = reading.digit == reading.label if reading.label else None
    error = "" if reading.label else ctx.prediction.ERR_MISSING_VALUES
    await ctx.prediction.save(reading.digit, reading.label, {"confidence": reading.confidence}, error=error)
    ctx.measurement.save("digit", {"confidence": reading.confidence, "correct": correct}, {"read_as": reading.digit})
    return Verdict(digit=reading.digit, confidence=reading.confidence, correct=correct)
