"""The type of a document: an object of the Kubernetes API as plain JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Document = Mapping[str, Any]
