def handler(data: str) -> str:
    return data
