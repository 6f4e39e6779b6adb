"""What people keep in a database besides models: pools, views, settings, devices, rejections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from sommelier.records import Device, Rejection
from sommelier.storage.catalog_datasets import DatasetTable
from sommelier.storage.naming import unknown_name
from sommelier.storage.rows import now

if TYPE_CHECKING:
    from sqlalchemy import Table


@dataclass(frozen=True, slots=True)
class Pool:
    """Models chosen by a query at one moment. ids : in the order of the answer."""

    name: str
    ids: tuple[str, ...]
    query: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class View:
    """A query that is run anew whenever its name is used."""

    name: str
    query: str


class CollectionTable(DatasetTable):
    """The part of the catalog that knows named things of the user's."""

    # ---- pools

    def save_pool(self, name: str, ids: Sequence[str], query_text: str) -> None:
        """Keep these models under a name; replaces a pool of that name."""
        from sommelier.storage.schema import POOL_MEMBERS, POOLS

        members = [
            {"pool": name, "position": place, "model_id": model_id}
            for place, model_id in enumerate(ids)
        ]
        row = {"name": name, "query_text": query_text, "created_at": now()}
        with self._database.transaction(f"save the pool '{name}'"):
            self._database.write(POOL_MEMBERS.delete().where(POOL_MEMBERS.c.pool == name))
            self._database.upsert(POOLS, [row])
            self._database.write(POOL_MEMBERS.insert(), members)

    def pool(self, name: str) -> Pool:
        """The pool of this name. Raises UnknownNameError."""
        for pool in self.pools():
            if pool.name == name:
                return pool
        raise unknown_name("pool", name, [pool.name for pool in self.pools()])

    def pools(self) -> list[Pool]:
        """All pools, by name."""
        rows = self._database.rows(
            "SELECT p.name, array_agg(m.model_id ORDER BY m.position)"
            " FILTER (WHERE m.model_id IS NOT NULL), p.query_text, p.created_at FROM store.pools p"
            " LEFT JOIN store.pool_members m ON m.pool = p.name GROUP BY p.name, p.query_text,"
            " p.created_at ORDER BY p.name"
        )
        return [Pool(name, tuple(ids or ()), text, made) for name, ids, text, made in rows]

    def drop_pool(self, name: str) -> None:
        """Forget a pool; its models stay. Raises UnknownNameError."""
        from sommelier.storage.schema import POOL_MEMBERS, POOLS

        with self._database.transaction(f"drop the pool '{name}'"):
            self._drop(POOLS, "pool", name)
            self._database.write(POOL_MEMBERS.delete().where(POOL_MEMBERS.c.pool == name))

    # ---- views

    def save_view(self, name: str, query_text: str) -> None:
        """Keep a query under a name; replaces a view of that name."""
        from sommelier.storage.schema import SAVED_VIEWS

        with self._database.transaction(f"save the view '{name}'"):
            self._database.upsert(SAVED_VIEWS, [{"name": name, "query_text": query_text}])

    def view(self, name: str) -> View:
        """The view of this name. Raises UnknownNameError."""
        for view in self.views():
            if view.name == name:
                return view
        raise unknown_name("view", name, [view.name for view in self.views()])

    def views(self) -> list[View]:
        """All views, by name."""
        rows = self._database.rows("SELECT name, query_text FROM store.saved_views ORDER BY name")
        return [View(*row) for row in rows]

    def drop_view(self, name: str) -> None:
        """Forget a view. Raises UnknownNameError."""
        from sommelier.storage.schema import SAVED_VIEWS

        with self._database.transaction(f"drop the view '{name}'"):
            self._drop(SAVED_VIEWS, "view", name)

    # ---- settings

    def setting(self, name: str) -> str | None:
        """The text a setting was set to, or None."""
        return self.settings().get(name)

    def settings(self) -> dict[str, str]:
        """The settings that were set, as text, by name."""
        return dict(self._database.rows("SELECT name, value FROM store.settings ORDER BY name"))

    def set_setting(self, name: str, value: str) -> None:
        """Keep a setting."""
        from sommelier.storage.schema import SETTINGS

        with self._database.transaction(f"set {name}"):
            self._database.upsert(SETTINGS, [{"name": name, "value": value}])

    def reset_setting(self, name: str) -> None:
        """Forget a setting; one that was not set is no error."""
        from sommelier.storage.schema import SETTINGS

        with self._database.transaction(f"reset {name}"):
            self._database.write(SETTINGS.delete().where(SETTINGS.c.name == name))

    # ---- devices

    def add_device(self, device: Device) -> None:
        """Remember a device; one of the same name is replaced."""
        from sommelier.storage.schema import DEVICES

        row = {column.name: getattr(device, column.name) for column in DEVICES.columns}
        with self._database.transaction(f"add the device '{device.name}'"):
            self._database.upsert(DEVICES, [row])

    def device(self, name: str) -> Device:
        """The device of this name. Raises UnknownNameError."""
        for device in self.devices():
            if device.name == name:
                return device
        raise unknown_name("device", name, [device.name for device in self.devices()])

    def devices(self) -> list[Device]:
        """All devices, by name."""
        rows = self._database.rows(
            "SELECT name, memory_bytes, peak_flops_per_s, bandwidth_bytes_per_s, note"
            " FROM store.devices ORDER BY name"
        )
        return [Device(*row) for row in rows]

    def drop_device(self, name: str) -> None:
        """Forget a device; numbers measured on it stay. Raises UnknownNameError."""
        from sommelier.storage.schema import DEVICES

        with self._database.transaction(f"drop the device '{name}'"):
            self._drop(DEVICES, "device", name)

    # ---- tasks and their default references

    def set_task_reference(self, task: str, model_id: str) -> None:
        """Let CORR TASK 'task' mean this model. Raises UnknownNameError for an unknown model."""
        from sommelier.storage.schema import TASK_REFERENCES

        with self._database.transaction(f"set the reference of '{task}'"):
            self.model(model_id)
            self._database.upsert(TASK_REFERENCES, [{"task": task, "model_id": model_id}])

    def tasks(self) -> list[tuple[str, int, str | None]]:
        """(task, number of models, name of its default reference or None), by task."""
        rows = self._database.rows("SELECT task, models, reference FROM main.tasks ORDER BY task")
        return [(task, models, reference) for task, models, reference in rows]

    # ---- files that are no models

    def add_rejection(self, rejection: Rejection) -> None:
        """Remember why a file was refused; replaces what was said of the same file before."""
        from sommelier.storage.schema import REJECTIONS

        row = {
            "source": rejection.source,
            "revision": rejection.revision,
            "reason": rejection.reason,
            "recorded_at": now(),
        }
        with self._database.transaction("record a rejection"):
            self._database.upsert(REJECTIONS, [row])

    def rejections(self) -> list[Rejection]:
        """Every refused file, the oldest first."""
        rows = self._database.rows(
            "SELECT source, revision, reason FROM store.rejections"
            " ORDER BY recorded_at, source, revision"
        )
        return [Rejection(*row) for row in rows]

    # ---- inside

    def _drop(self, table: Table, kind: str, name: str) -> None:
        rows = self._database.rows(f"SELECT name FROM store.{table.name}")
        names = [known for (known,) in rows]
        if name not in names:
            raise unknown_name(kind, name, names)
        self._database.write(table.delete().where(table.c.name == name))
