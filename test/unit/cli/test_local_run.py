"""What `krt run` says of a workflow before it starts it."""

from runtime.cli.local_run import describe_images
from runtime.deploy.process import Process


def test_images_of_processes_are_said_to_have_no_effect_in_one_line() -> None:
    processes = [
        Process(name="clean", arguments=("node",)),
        Process(name="score", arguments=("node",), image="score:1"),
        Process(name="krt.driver.api", arguments=("driver",), image="web:1"),
    ]

    assert describe_images(processes) == "image     has no effect on processes of this machine: score, krt.driver.api"
    assert describe_images(processes[:1]) == ""
