"""`mailarray volume` against a catalog URL."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from click.testing import CliRunner

from mailarray.catalog.database import open_catalog
from mailarray.cli.volume import volume
from mailarray.model.ids import new_volume_id
from tests.unit.cli.test_server_status import settings_file


def test_volumes_are_listed_and_declared_lost(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/catalog.db"
    used, drained = new_volume_id(), new_volume_id()

    async def fill() -> None:
        catalog = await open_catalog(url)
        await catalog.check_in(used, "mail-0", 0, 0)
        await catalog.check_in(drained, "mail-1", 0, 0)
        await catalog.mark_retired(drained)
        await catalog.close()

    asyncio.run(fill())

    def run(*arguments: str) -> str:
        done = CliRunner().invoke(volume, [*arguments, "--catalog", url])
        assert done.exit_code == 0, done.output
        return done.output

    waiting = run("list")
    assert "has not told the catalog all" in waiting.splitlines()[1] and "The catalog is closed" in waiting

    async def tell() -> None:
        catalog = await open_catalog(url)
        assert await catalog.caught_up(used, 1, [used], 1)
        await catalog.close()

    asyncio.run(tell())
    lines = run("list").splitlines()
    assert len(lines) == 3
    assert lines[1].split(maxsplit=2) == [used.hex(), "mail-0", "in use"]
    assert lines[2].split(maxsplit=2) == [drained.hex(), "mail-1", "retired: drained, not waited for"]
    assert "is marked lost" in run("lost", used.hex(), "--yes")
    assert run("list").splitlines()[1].endswith("lost")

    (tmp_path / "url").write_text(f"{url}\n")  # as in a pod, where the URL is a mounted Secret
    settings = settings_file(tmp_path, 1, 2)
    written = json.loads(settings.read_text())
    settings.write_text(json.dumps({**written, "catalog": {"url_file": str(tmp_path / "url")}}))
    done = CliRunner().invoke(volume, ["list", "--settings", str(settings)])
    assert done.exit_code == 0 and done.output == run("list")


def test_what_is_wrong_is_a_sentence(tmp_path: Path) -> None:
    runner = CliRunner()
    done = runner.invoke(volume, ["list", "--catalog", "mysql://x"])
    assert done.exit_code == 2 and "must begin with sqlite:///" in done.output
    done = runner.invoke(volume, ["lost", "xyz", "--catalog", f"sqlite:///{tmp_path}/c.db"])
    assert done.exit_code == 2
    done = runner.invoke(volume, ["list", "--data", str(tmp_path)])
    assert done.exit_code == 1 and "holds no array" in done.output
