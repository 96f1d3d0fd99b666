from pydantic import BaseModel


class Scored(BaseModel):
    amount: str


def handler(ctx: object, data: list[Scored]) -> None:
    print(data)
