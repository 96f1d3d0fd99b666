"""A web server as FastAPI's documentation writes it, with the handler of the measured nodes: `PORT READY_FD`."""

import os
import sys
from typing import Any

import uvicorn
from fastapi import FastAPI

app = FastAPI()


@app.post("/predict")
async def predict(data: dict[str, Any]) -> dict[str, Any]:
    return data


class Server(uvicorn.Server):
    async def startup(self, *arguments: Any, **named: Any) -> None:
        await super().startup(*arguments, **named)
        os.write(int(sys.argv[2]), b"ready\n")


if __name__ == "__main__":
    config = uvicorn.Config(app, port=int(sys.argv[1]), loop="uvloop", log_level="warning", access_log=False)
    Server(config).run()
