"""Batch runs: packaged models, each run with a record and artifacts. Public here is what a packaged model needs."""

from runtime.batch.connector import Connector as Connector
from runtime.batch.connector import Folders as Folders
from runtime.batch.connector import UnsupportedInput as UnsupportedInput
