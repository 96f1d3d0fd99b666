"""Greets whoever the message names."""


def handler(ctx, data: dict) -> dict:
    return {"greeting": f"Hello, {data['name']}!"}
