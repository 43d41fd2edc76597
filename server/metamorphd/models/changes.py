"""Changes of a resource: a dataclass of optional fields, named like the resource's, where None keeps the value."""

from dataclasses import fields, replace
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

ResourceT = TypeVar("ResourceT", bound="DataclassInstance")


def changed(resource: ResourceT, changes: "DataclassInstance") -> ResourceT:
    """Returns `resource` with the values of `changes` that are not None."""
    values = {field.name: getattr(changes, field.name) for field in fields(changes)}
    return replace(resource, **{name: value for name, value in values.items() if value is not None})
