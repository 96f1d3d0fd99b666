def handler(ctx: object, data: str) -> str:
    return data.strip()
