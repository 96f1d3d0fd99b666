import json

# Import the proto message types
from public_input_pb2 import Request, Response


# this function will be executed once when the runner is starting
def init(ctx):
    # load file and save in memory to be used within the handler
    with open(ctx.path("data/greetings.json"), encoding="utf-8") as file:
        ctx.set("greetings", json.load(file))


# this function will be executed when a message is received
async def handler(ctx, data):
    greetings = ctx.get("greetings")

    # data is the received message from the queue
    req = Request()
    data.Unpack(req)

    greeting = greetings.get(req.language, greetings["en"])

    res = Response()
    res.greeting = greeting.format(name=req.name)

    return res  # return a protobuf for the next node
