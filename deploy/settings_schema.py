"""Which settings the chart takes for a role, and within which bounds: as JSON Schema, made from the role's own model.

So a setting that is mistyped or out of bounds is refused before anything is installed.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from services.client.settings import ClientSettings
from services.cloud.settings import CloudSettings
from services.edge.settings import EdgeSettings

ROLES: Mapping[str, type[BaseModel]] = {"cloud": CloudSettings, "edge": EdgeSettings, "client": ClientSettings}
CHARTS_OWN = frozenset(
    {
        *("name", "cloud", "host", "port", "advertise", "state", "database_url", "data", "heldout", "edge_addresses"),
        *("tls_ca", "tls_cert", "tls_key", "tls_crl", "insecure", "ready_file", "grace_s"),
        *("probe_host", "probe_port", "metrics_host", "metrics_port", "cache", "profiles"),
    }
)
"""Settings that follow from other values, or that make no sense in a pod."""
KEPT = (
    *("type", "enum", "const", "pattern", "minLength", "maxLength", "additionalProperties"),
    *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "propertyNames"),
)


def settings_schema(model: type[BaseModel]) -> dict[str, Any]:
    """The schema of a role's `settings`: an object with its settings, but for the chart's own."""
    properties = model.model_json_schema()["properties"]
    chosen = {name: _plain(schema) for name, schema in sorted(properties.items()) if name not in CHARTS_OWN}
    return {"type": "object", "additionalProperties": False, "properties": chosen}


def _plain(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A field's schema without what only pydantic reads, and without null: who wants the default gives nothing."""
    given = [each for each in schema.get("anyOf", []) if each.get("type") != "null"]
    whole = {**schema, **(given[0] if len(given) == 1 else {})}
    plain = {key: whole[key] for key in KEPT if key in whole}
    if not {"type", "enum", "const"} & set(plain):
        raise TypeError(f"a setting of several types: {schema}")
    return plain
