"""Counts the custom resources now and then: what was deleted while kopf's watch was cut is found here.

kopf lists anew after a cut, and tells of all that is there, but not of what is not there any more. Only names are read.
Also waits at the start for the CRDs. Run by `main`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from mailarray_operator.api import names
from mailarray_operator.cluster.client import ApiError, Client
from mailarray_operator.cluster.held import Key
from mailarray_operator.cluster.kinds import CUSTOM, Kind
from mailarray_operator.cluster.store import Store
from mailarray_operator.cluster.watch import PAGE

log = logging.getLogger(__name__)

EVERY_SECONDS = 300.0
CRD_SECONDS = 5.0  # between two looks for the CRDs


async def wait_for_crds(client: Client) -> None:
    """Until all three kinds are served."""
    told = ""
    while True:
        try:
            found = await client.get(f"/apis/{names.API_VERSION}")
            absent = {kind.plural for kind in CUSTOM} - {r["name"] for r in found["resources"]}
            problem = f"{', '.join(sorted(absent))} of {names.API_VERSION} are not served" if absent else ""
        except ApiError as error:
            problem = f"{names.API_VERSION} is not served" if error.not_found else error.message
        if not problem:
            return
        if problem != told:
            told = problem
            log.warning("waiting for the custom resource definitions; install them", extra={"reason": problem})
        await asyncio.sleep(CRD_SECONDS)


async def run(client: Client, store: Store, namespaces: Iterable[str]) -> None:
    """Until cancelled."""
    while True:
        await asyncio.sleep(EVERY_SECONDS)
        for kind in CUSTOM:
            try:
                await count(client, store, kind, namespaces)
            except ApiError as error:
                log.info("custom resources not counted", extra={"kind": kind.name, "reason": error.message})


async def count(client: Client, store: Store, kind: Kind, namespaces: Iterable[str]) -> None:
    """Tell the store what is gone. Raises ApiError."""
    believed = set(store.names_of(kind))  # before the list: what comes later is no business of it
    there: set[Key] = set()
    for namespace in namespaces:
        token = ""
        while True:
            query = {"limit": str(PAGE), **({"continue": token} if token else {})}
            page = await client.get(kind.path(namespace), query, metadata_only=True)
            there.update((item["metadata"]["namespace"], item["metadata"]["name"]) for item in page["items"])
            token = page["metadata"].get("continue", "")
            if not token:
                break
    for where, name in believed - there:
        log.info("gone while nobody watched", extra={"kind": kind.name, "namespace": where, "object": name})
        store.take(kind, {"metadata": {"namespace": where, "name": name}}, False)
