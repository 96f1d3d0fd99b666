"""Sending requests to a workflow, and getting their answers."""

from runtime.client.request import Reply as Reply
from runtime.client.workflow import DEFAULT_TIMEOUT_S as DEFAULT_TIMEOUT_S
from runtime.client.workflow import TRACE_HEADER as TRACE_HEADER
from runtime.client.workflow import Route as Route
from runtime.client.workflow import Workflow as Workflow
