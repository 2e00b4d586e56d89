"""Clients who hold what their folders or a manifest say (partition ``folders``)."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from albums import SHAPE, Load, album, faces, picture

from fedinverse.client_data import shard_of
from fedinverse.data import Request, open_source, source_of
from fedinverse.errors import ConfigError, DataError
from fedinverse.run import prepare
from fedinverse.split import NOBODY
from pipeline.experiment import resolved
from report.threat import threat_model


def clients(root: Path) -> Path:
    """Three clients: everyone has classes x and y, b alone has z."""
    for number, (client, held) in enumerate({"a": "xy", "b": "xyz", "c": "xy"}.items()):
        album(root / client, len(held), 8, first=number * 10_000)
        for place, name in enumerate(held):
            (root / client / f"person {place}").rename(root / client / name)
    return root


def test_clients_hold_what_their_folders_hold(tmp_path: Path, tiny: Load) -> None:
    root, public = clients(tmp_path / "clients"), album(tmp_path / "public", 2, 4, 50_000, "other {}")
    population = {"clients": 3, "victim": 1, "victim_classes": ["z"], "partition": "folders"}
    table = resolved(faces(tiny, root, public, data={"private": "clientfolders"}, population=population))
    run = prepare(tmp_path / "run", table)
    pool = run.pools["private"]
    assert (pool.class_names, pool.client_names) == (("x", "y", "z"), ("a", "b", "c"))
    assert run.population.victim_classes == (2,)
    train = run.split[run.split["part"] == "train"]
    assert (train["client"].to_numpy() == pool.holders[train["row"]]).all()
    assert set(train["client"]) == {0, 1, 2}
    shards = [shard_of(run, client, "with_victim") for client in range(3)]
    assert [sorted(set(shard.labels.tolist())) for shard in shards] == [[0, 1], [0, 1, 2], [0, 1]]
    assert "client 1 (b)" in dict(threat_model(run))["Victim"]

    manifest = tmp_path / "clients.csv"
    listed = sorted(root.rglob("*.png"))
    lines = [f"{path.relative_to(tmp_path)},{path.parent.name},{path.parent.parent.name}" for path in listed]
    manifest.write_text("\n".join(["file,class,client", *lines]))
    again = open_source(Request("clientfolders", SHAPE, str(manifest)))
    np.testing.assert_array_equal(again.images, pool.images)
    np.testing.assert_array_equal(again.holders, pool.holders)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("file,class,client\r\n x/1.png , a , c1 \r\n", ()),
        ("\ufefffile,class,client,age\nx/1.png,a,c1,\n", ()),  # a column of somebody else's, empty
        ("file,class,client\nx/1.png,a,c1\n\nx/2.png,a\n,,\n", ("2 lines of list.csv without file, class, client",)),
        ("file;class;client\nx/1.png;a;c1\n", "has no column 'file', but file;class;client"),
        ("file,class,client\nx/1.png,Smith, John,c1\n", "entry 2 has more cells than the first line"),
        ("file,class,client\nx/1.png,a,c1\nx/../x/1.png,b,c1\n", "1.png twice"),
        ("file,class,client\n../1.png,a,c1\n", "neither beside this file nor below"),
        ("file,class,client\n/etc/hostname,a,c1\n", "neither beside this file nor below"),
        ("file,class,client\nx/\0.png,a,c1\n", r"list\.csv"),
        ("file,class,client\nx/9.png,a,c1\n", r"9\.png: not a readable picture"),
    ],
)
def test_a_manifest_is_read_whole_or_refused(text: str, said: Any, tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    for number in (1, 2):
        picture(number).save(tmp_path / "x" / f"{number}.png")
    (tmp_path / "list.csv").write_text(text, newline="")
    request = Request("clientfolders", SHAPE, str(tmp_path / "list.csv"))
    if isinstance(said, str):
        with pytest.raises(DataError, match=said):
            source_of("clientfolders").load(request)
        return
    loaded = source_of("clientfolders").load(request)
    assert (loaded.class_names, loaded.client_names, loaded.left_out) == (("a",), ("c1",), said)


def test_a_picture_in_the_folders_of_two_clients_is_at_neither_and_counted(tmp_path: Path, tiny: Load) -> None:
    root, public = clients(tmp_path / "clients"), album(tmp_path / "public", 2, 4, 50_000, "other {}")
    shared = sorted((root / "c" / "x").iterdir())[0]
    shutil.copy(shared, root / "a" / "x" / "copy.png")
    population = {"clients": 3, "victim": 1, "victim_classes": ["z"], "partition": "folders"}
    table = resolved(faces(tiny, root, public, data={"private": "clientfolders"}, population=population))
    run = prepare(tmp_path / "run", table)
    twice = run.split[run.split["sha256"].duplicated(keep=False)]
    assert sorted(run.pools["private"].holders[twice["row"]]) == [0, 2]
    assert set(twice["part"]) == {"unused"}
    assert set(twice["client"]) == {NOBODY}
    assert "1 pictures that lie in the folders of several clients (2 files)" in dict(threat_model(run))["Left out"]


def test_clients_that_do_not_fit_the_configuration_are_named(tmp_path: Path, tiny: Load) -> None:
    root, public = clients(tmp_path / "clients"), album(tmp_path / "public", 2, 4, 50_000, "other {}")
    right = {"clients": 3, "victim": 1, "victim_classes": ["z"], "partition": "folders"}
    for changes, said in (
        ({"clients": 4}, "is 4, but the private source has 3 clients .a, b, c.; make it 3"),
        ({"victim": 0}, "z is not the victim's alone, b hold pictures of it too; only a holds: none"),
        ({"victim_classes": ["x"]}, "x is not the victim's alone.*only b holds: z"),
        ({"overlap": 0.5}, "population.overlap lends"),
    ):
        data = {"private": "clientfolders"}
        with pytest.raises(ConfigError, match=said):
            prepare(tmp_path / "run", resolved(faces(tiny, root, public, data=data, population=right | changes)))
    with pytest.raises(ConfigError, match="this one knows none"):
        prepare(tmp_path / "run", resolved(tiny(population={"partition": "folders"})))
    (tmp_path / "clients.csv").write_text("file,class\nx.png,a\n")
    with pytest.raises(DataError, match="has no column 'client'"):
        open_source(Request("clientfolders", SHAPE, str(tmp_path / "clients.csv")))
