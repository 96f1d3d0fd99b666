from pydantic import BaseModel


class Stored(BaseModel):
    amount: float
    sure: bool


def handler(ctx: object, data: Stored) -> None:
    print(data)
