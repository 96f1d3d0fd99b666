"""KRE's `konstellation-exitpoint`: early answers of every node that it reads, and all else of one of them.

The variable PASSTHROUGH_FROM names that node; without it every message passes. A handler like a user's, loaded in the
same way: `krt:passthrough` stands for its path.
"""

import os

from google.protobuf import any_pb2

from runtime.node.context import Context
from runtime.spec import names

SENDER = os.environ.get(names.PASS_FROM, "")


async def default_handler(ctx: Context, data: any_pb2.Any) -> None:
    """Pass a message on as what it is."""
    if ctx.is_message_early_reply():
        await ctx.send_early_reply(data)
    elif ctx.is_message_early_exit():
        await ctx.send_early_exit(data)
    elif SENDER in ("", ctx.from_node):
        await ctx.send_output(data)
