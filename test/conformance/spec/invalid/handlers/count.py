def handler(ctx: object, data: str) -> dict[str, int]:
    return {"words": len(data.split())}
