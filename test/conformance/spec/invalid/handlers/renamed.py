def handle(data: str) -> str:
    return data
