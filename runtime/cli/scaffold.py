"""The files of a new workflow, as texts: no template language, `NAME` stands for the workflow's name."""

WORKFLOW = """\
name: NAME
nodes:
  - {name: greet}                # its code is greet/handler.py
"""

HANDLER = '''\
"""Greets whoever the message names."""


def handler(ctx, data: dict) -> dict:
    return {"greeting": f"Hello, {data['name']}!"}
'''

TEST = """\
from pathlib import Path

from runtime.testing import run_workflow

FOLDER = Path(__file__).parent


def test_greets_by_name() -> None:
    with run_workflow(FOLDER) as workflow:
        assert workflow.send({"name": "Ada"}) == {"greeting": "Hello, Ada!"}


def test_a_call_that_fails_is_made_again() -> None:
    with run_workflow(FOLDER) as workflow:
        workflow.fail("greet", times=2)

        assert workflow.send({"name": "Ada"}) == {"greeting": "Hello, Ada!"}
        assert workflow.dead_letters() == []
"""

README = """\
# NAME

```
krt run NAME                          # in one shell
krt send NAME '{"name": "Ada"}'       # in a second one
pytest NAME                           # its test, in memory: nothing has to run
```

| file | holds |
|---|---|
| `workflow.yaml` | the nodes and how they are joined |
| `greet/handler.py` | the code of the node `greet` |
| `test_workflow.py` | the test |

`krt check NAME` reports every problem of the file and of the handlers at once.
"""

# Path in the new folder -> text.
FILES = {
    "workflow.yaml": WORKFLOW,
    "greet/handler.py": HANDLER,
    "test_workflow.py": TEST,
    "README.md": README,
}
