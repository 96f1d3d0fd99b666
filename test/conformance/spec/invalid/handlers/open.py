from typing import Any


def handler(ctx: object, data: Any) -> Any:
    return data
