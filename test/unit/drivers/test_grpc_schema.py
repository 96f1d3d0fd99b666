"""What the gRPC driver reads from a `.proto` file, and which methods it serves by which workflow."""

import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf import descriptor_pool

from runtime.drivers.grpc.routes import Services, served_methods
from runtime.drivers.grpc.schema import Schema, read_schema
from runtime.errors import DriverStartError
from test.support.rpc import write_proto

TWO_SERVICES = """
syntax = "proto3";
package shop;
import "google/protobuf/timestamp.proto";
import "parts.proto";
message Order { google.protobuf.Timestamp at = 1; Part part = 2; }
service Orders { rpc Place(Order) returns (Order); rpc Cancel(Order) returns (Order); }
service Entrypoint { rpc Place(Order) returns (Order); rpc Watch(Order) returns (stream Order); }
"""
PARTS = """
syntax = "proto3";
package shop;
message Part { string name = 1; }
service Stock { rpc Count(Part) returns (Part); }
"""
ONE_SERVICE = """
syntax = "proto3";
message Text { string text = 1; }
service Greeter { rpc Hello(Text) returns (Text); rpc Bye(Text) returns (Text); }
"""


@pytest.fixture
def shop(tmp_path: Path) -> Schema:
    write_proto(tmp_path, PARTS, "parts.proto")
    return read_schema(write_proto(tmp_path, TWO_SERVICES, "shop.proto"))


def routes(schema: Schema, services: Services) -> dict[str, str]:
    return {str(method): method.workflow for method in served_methods(schema.services, services)}


def test_a_file_offers_its_own_services_and_the_types_of_its_imports(shop: Schema) -> None:
    assert [service.full_name for service in shop.services] == ["shop.Orders", "shop.Entrypoint"]
    assert shop.pool.FindMessageTypeByName("shop.Part")
    assert shop.pool.FindMessageTypeByName("google.protobuf.Timestamp")


def test_nothing_is_registered_in_the_default_pool(shop: Schema) -> None:
    with pytest.raises(KeyError):
        descriptor_pool.Default().FindMessageTypeByName("shop.Order")


def test_a_descriptor_set_stands_for_its_file(tmp_path: Path) -> None:
    proto = write_proto(tmp_path, ONE_SERVICE, "greeter.proto")
    written = tmp_path / "greeter.pb"
    compiler = [sys.executable, "-m", "grpc_tools.protoc", f"-I{tmp_path}", "--include_imports"]
    subprocess.run([*compiler, f"--descriptor_set_out={written}", proto.name], check=True)

    schema = read_schema(written)

    assert routes(schema, {}) == {"Greeter/Hello": "", "Greeter/Bye": ""}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('syntax = "proto3";\nmessage Text { sting text = 1; }', 'faulty.proto:2:16: "sting" is not defined.'),
        ('syntax = "proto3";\nmessage Text {', "faulty.proto cannot be compiled: faulty.proto:2:15: "),
        ('syntax = "proto3";\nimport "none.proto";', "none.proto: File not found"),
        ('syntax = "proto3";\nmessage Text {}', "faulty.proto declares no service; add one"),
    ],
)
def test_a_file_that_cannot_be_served_is_told_with_its_place(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(DriverStartError) as refused:
        read_schema(write_proto(tmp_path, text, "faulty.proto"))

    assert told in str(refused.value)


def test_a_missing_file_and_one_of_another_kind_are_told(tmp_path: Path) -> None:
    other = tmp_path / "set.pb"
    other.write_bytes(b"\x0a\xff")

    with pytest.raises(DriverStartError, match=r"there is no file .*none\.proto"):
        read_schema(tmp_path / "none.proto")
    with pytest.raises(DriverStartError, match=r"set\.pb is neither a \.proto file nor a descriptor set"):
        read_schema(other)


@pytest.mark.parametrize(
    ("services", "served"),
    [
        ({"Orders": "orders"}, {"shop.Orders/Place": "orders", "shop.Orders/Cancel": "orders"}),
        ({"shop.Orders": {"Place": "orders"}}, {"shop.Orders/Place": "orders"}),
        (
            {"Orders": {"Cancel": "returns"}, "Entrypoint": {"Place": "orders"}},
            {"shop.Orders/Cancel": "returns", "shop.Entrypoint/Place": "orders"},
        ),
    ],
)
def test_services_and_methods_are_served_by_the_named_workflows(
    shop: Schema, services: Services, served: dict[str, str]
) -> None:
    assert routes(shop, services) == served


def test_a_single_service_is_served_by_the_drivers_own_workflow(tmp_path: Path) -> None:
    schema = read_schema(write_proto(tmp_path, ONE_SERVICE))

    assert routes(schema, {}) == {"Greeter/Hello": "", "Greeter/Bye": ""}


def test_each_method_of_an_entrypoint_is_served_by_the_workflow_of_its_name(tmp_path: Path) -> None:
    schema = read_schema(write_proto(tmp_path, ONE_SERVICE.replace("Greeter", "Entrypoint")))

    assert routes(schema, {}) == {"Entrypoint/Hello": "Hello", "Entrypoint/Bye": "Bye"}


@pytest.mark.parametrize(
    ("services", "told"),
    [
        ({}, ["there are the services Orders, Entrypoint", "services: {NAME: WORKFLOW}"]),
        ({"Entrypoint": "shop"}, ["shop.Entrypoint.Watch is a streaming method"]),
        (
            {"Order": "shop", "Orders": {"Plce": "shop"}},
            ['no service "Order"; there are: Orders, Entrypoint', 'has no method "Plce"; it has: Place, Cancel'],
        ),
    ],
)
def test_what_cannot_be_served_is_told_all_at_once(shop: Schema, services: Services, told: list[str]) -> None:
    with pytest.raises(DriverStartError) as refused:
        routes(shop, services)

    assert [part for part in told if part not in str(refused.value)] == []
