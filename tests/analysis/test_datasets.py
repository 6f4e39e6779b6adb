"""Every dataset format is read item by item, named, labelled, and refused with a sentence."""

from __future__ import annotations

import zipfile

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from sommelier.analysis.datasets import load, reopen
from sommelier.errors import DatasetError

RNG = np.random.default_rng(0)
PICTURES = RNG.integers(0, 256, (6, 5, 4, 3), dtype=np.uint8)


def png(path, picture):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)
    return path


def test_npz_arrays_are_found_by_their_usual_names(tmp_path):
    np.savez(tmp_path / "d.npz", x=PICTURES, y=[0, 1, 2, 0, 1, 2], idx=np.arange(6))
    with load(tmp_path / "d.npz") as data:
        assert (data.record.name, data.record.kind, len(data)) == ("d", "image", 6)
        assert data.record.item_shape == (5, 4, 3)
        assert np.array_equal(data.item(2), PICTURES[2])
        assert data.labels.tolist() == [0, 1, 2, 0, 1, 2]
        assert (data.label_space, data.classes) == (None, 3)


def test_npz_arrays_are_chosen_by_option_and_text_labels_become_names(tmp_path):
    np.savez(tmp_path / "d.npz", wave=RNG.normal(size=(3, 10)), speaker=["bo", "al", "bo"])
    with load(tmp_path / "d.npz", {"x": "wave", "y": "speaker"}, "speech") as data:
        assert data.record.name == "speech"
        assert data.record.kind == "array"
        assert data.label_space.labels == ("al", "bo")
        assert data.labels.tolist() == [1, 0, 1]
    with pytest.raises(DatasetError, match="has no 'voice' for y") as caught:
        load(tmp_path / "d.npz", {"x": "wave", "y": "voice"})
    assert caught.value.hint == "it has wave, speaker"
    with pytest.raises(DatasetError, match="which array") as caught:
        load(tmp_path / "d.npz")
    assert caught.value.hint == "write x = one of wave, speaker"


def test_items_are_of_the_kind_that_is_asked_for_or_refused(tmp_path):
    np.savez(tmp_path / "pictures.npz", x=PICTURES)
    np.savez(tmp_path / "planes.npz", x=PICTURES.transpose(0, 3, 1, 2))
    with load(tmp_path / "pictures.npz", {"kind": "array"}) as data:
        assert data.record.kind == "array"
    with pytest.raises(
        DatasetError, match=r"of kind 'array' of shape \(3, .*not 'image'"
    ) as caught:
        load(tmp_path / "planes.npz", {"kind": "image"})
    assert "(height, width, 1 or 3)" in caught.value.hint
    with pytest.raises(DatasetError, match="kind = 'picture' is not known") as caught:
        load(tmp_path / "pictures.npz", {"kind": "picture"})
    assert caught.value.hint == "write image or array or file"


def test_label_names_are_given_as_a_list_or_a_file(tmp_path):
    np.savez(tmp_path / "d.npz", x=PICTURES, y=[0, 1, 0, 1, 0, 1])
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    for given in (["cat", "dog"], "names.txt"):
        with load(tmp_path / "d.npz", {"labels": given}) as data:
            assert data.label_space.labels == ("cat", "dog")
    with pytest.raises(DatasetError, match="1 label names are given, but label 1 occurs"):
        load(tmp_path / "d.npz", {"labels": ["cat"]})
    with pytest.raises(DatasetError, match=r"no file of label names 'other\.txt'"):
        load(tmp_path / "d.npz", {"labels": "other.txt"})


def test_object_arrays_are_refused_because_they_may_run_code(tmp_path):
    np.savez(tmp_path / "bad.npz", x=np.array([{}, {}], dtype=object))
    with pytest.raises(DatasetError, match="holds Python objects"):
        load(tmp_path / "bad.npz")
    np.save(tmp_path / "bad.npy", np.array([{}, {}], dtype=object))
    with pytest.raises(DatasetError, match="is no npy file of numbers"):
        load(tmp_path / "bad.npy")


def test_npy_is_mapped_and_takes_labels_from_a_second_file(tmp_path):
    np.save(tmp_path / "x.npy", PICTURES)
    np.save(tmp_path / "labels.npy", np.arange(6.0))
    with load(tmp_path / "x.npy", {"label": "labels.npy"}) as data:
        assert np.array_equal(data.items([5, 0])[0], PICTURES[5])
        assert data.labels.tolist() == list(range(6))
    with load(tmp_path / "x.npy") as data:
        assert data.labels is None
        assert not data.record.labelled


@pytest.mark.parametrize("suffix", ["csv", "tsv", "parquet"])
def test_tables_have_numeric_inputs_and_a_label_column(tmp_path, suffix):
    table = pd.DataFrame({"a": [1, 2], "b": [0.5, 1.5], "species": ["setosa", "virginica"]})
    path = tmp_path / f"iris.{suffix}"
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
        table.to_parquet(path)
    else:
        table.to_csv(path, index=False, sep="\t" if suffix == "tsv" else ",")
    with load(path) as data:
        assert data.item(1).tolist() == [2, 1.5]
        assert data.label_space.labels == ("setosa", "virginica")
    with load(path, {"x": ["b"], "y": "none"}) as data:
        assert data.item(0).tolist() == [0.5]
        assert data.labels is None
    with pytest.raises(DatasetError, match="has no column 'c'") as caught:
        load(path, {"x": ["c"]})
    assert caught.value.hint == "columns: a, b, species"
    with pytest.raises(DatasetError, match=r"column 'species' of .* is not numeric"):
        load(path, {"y": "a"})


def test_parquet_columns_hold_encoded_pictures_or_lists(tmp_path):
    pytest.importorskip("pyarrow")
    encoded = [png(tmp_path / f"{i}.png", PICTURES[i]).read_bytes() for i in range(2)]
    rows = {"image": [{"bytes": b, "path": None} for b in encoded], "label": [1, 0]}
    pd.DataFrame(rows).to_parquet(tmp_path / "images.parquet")
    with load(tmp_path / "images.parquet") as data:
        assert data.record.kind == "image"
        assert np.array_equal(data.item(1), PICTURES[1])
    pd.DataFrame({"x": [[1.0, 2.0], [3.0, 4.0]]}).to_parquet(tmp_path / "lists.parquet")
    with load(tmp_path / "lists.parquet") as data:
        assert data.item(1).tolist() == [3, 4]


def test_an_image_folder_is_labelled_by_its_subfolders(tmp_path):
    for i, label in enumerate(("dog", "cat", "dog")):
        png(tmp_path / "pets" / label / f"{i}.png", PICTURES[i])
    (tmp_path / "pets" / "readme.txt").write_text("not a picture")
    with load(tmp_path / "pets") as data:
        assert data.record.kind == "image"
        assert data.label_space.labels == ("cat", "dog")
        assert data.labels.tolist() == [0, 1, 1]
        assert np.array_equal(data.item(0), PICTURES[1])


def test_a_zip_is_read_in_place_and_labelled_by_the_prefix_of_its_names(tmp_path):
    with zipfile.ZipFile(tmp_path / "sample.zip", "w") as archive:
        for i, name in enumerate(("n02_shark.png", "n01_tench.png")):
            archive.write(png(tmp_path / "p.png", PICTURES[i]), name)
    for options in ({}, {"label_from": "prefix"}):
        with load(tmp_path / "sample.zip", options) as data:
            assert data.label_space.labels == ("n01", "n02")
            assert data.labels.tolist() == [0, 1]
            assert np.array_equal(data.item(0), PICTURES[1])
    with load(tmp_path / "sample.zip", {"label_from": "none"}) as data:
        assert data.labels is None


def test_camera_names_do_not_count_as_labels(tmp_path):
    for i in range(2):
        png(tmp_path / f"IMG_{i}.png", PICTURES[i])
    assert load(tmp_path).labels is None


def test_files_of_any_kind_are_labelled_by_their_extension(tmp_path):
    for name in ("b.py", "a.MD", "c.py", "LICENSE", ".hidden.py"):
        (tmp_path / name).write_bytes(name.encode())
    with load(tmp_path, {"label_from": "extension"}) as data:
        assert data.record.kind == "file"
        assert data.items(range(3)) == [b"a.MD", b"b.py", b"c.py"]
        assert data.label_space.labels == ("md", "py")
        assert data.labels.tolist() == [0, 1, 1]
    with load(tmp_path, {"label_from": "extension", "labels": {"py": "python"}}) as data:
        assert data.label_space.labels == ("python",)
        assert data.labels.tolist() == [-1, 0, 0]  # no wanted name: no label


def test_the_id_follows_content_and_deciding_options(tmp_path):
    path = tmp_path / "d.npz"
    np.savez(path, x=PICTURES, y=np.zeros(6, int), other=np.ones(6, int))
    first = load(path).record
    assert load(path, {"held_out": True}, "name").record.id == first.id
    assert load(path, {"y": "other"}).record.id != first.id
    np.savez(path, x=PICTURES + 1, y=np.zeros(6, int))
    with pytest.raises(DatasetError, match="has changed since it was registered"):
        reopen(first)


def test_the_id_does_not_depend_on_whether_an_option_was_written_or_found(tmp_path):
    np.savez(tmp_path / "d.npz", x=PICTURES, y=[0, 1, 0, 1, 0, 1], other=[1, 1, 0, 1, 0, 1])
    np.save(tmp_path / "d.npy", PICTURES)
    frame = pd.DataFrame({"a": [1.0, 2.0], "b": [3.0, 4.0], "label": ["no", "yes"]})
    frame.to_csv(tmp_path / "d.csv", index=False)
    for label in ("cat", "dog"):
        png(tmp_path / "pictures" / label / "1.png", PICTURES[0])
    same = {
        "d.npz": [{}, {"x": "x"}, {"y": "y"}, {"x": "x", "label": "y", "kind": "image"}],
        "d.npy": [{}, {"kind": "image"}, {"classes": 7}],
        "d.csv": [{}, {"x": ["a", "b"]}, {"y": "label"}, {"labels": ["no", "yes"]}],
        "pictures": [{}, {"kind": "image"}, {"label_from": "folder", "held_out": True}],
    }
    different = {
        "d.npz": [{"y": "other"}, {"y": "none"}, {"labels": ["a", "b"]}],
        "d.csv": [{"x": ["a"]}, {"x": ["b", "a"]}, {"labels": ["yes", "no"]}],
        "pictures": [{"label_from": "none"}, {"kind": "file"}, {"labels": {"cat": "pet"}}],
    }
    for file, written in same.items():
        ids = {load(tmp_path / file, options).record.id for options in written}
        assert len(ids) == 1, file
        others = [load(tmp_path / file, options).record.id for options in different.get(file, [])]
        assert len({*ids, *others}) == 1 + len(others), file


def test_missing_files_unknown_options_and_formats_say_what_exists(tmp_path):
    (tmp_path / "data.npz").write_bytes(b"not a zip")
    with pytest.raises(DatasetError, match="no file or folder") as caught:
        load(tmp_path / "date.npz")
    assert caught.value.hint == "the folder has data.npz"
    with pytest.raises(DatasetError, match="not a readable npz"):
        load(tmp_path / "data.npz")
    with pytest.raises(DatasetError, match="no option 'lable'") as caught:
        load(tmp_path / "data.npz", {"lable": "y"})
    assert "label_from" in caught.value.hint
    (tmp_path / "data.mat").write_bytes(b"")
    with pytest.raises(DatasetError, match="not a dataset file") as caught:
        load(tmp_path / "data.mat")
    assert "csv, folder, npy, npz, parquet, zip" in caught.value.hint
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match=r"has 0 pictures \(empty\)"):
        load(tmp_path / "empty")


def test_labels_that_do_not_fit_are_refused(tmp_path):
    path = tmp_path / "d.npz"
    np.savez(path, x=PICTURES, y=[0, 1])
    with pytest.raises(DatasetError, match="6 items but labels of shape"):
        load(path)
    np.savez(path, x=PICTURES, y=np.linspace(0, 1, 6))
    with pytest.raises(DatasetError, match="not class numbers"):
        load(path)
    np.savez(path, x=PICTURES, y=[0, 1, 2, 3, 4, 5])
    with pytest.raises(DatasetError, match="classes = 3, but label 5 occurs"):
        load(path, {"classes": 3})


def test_a_broken_picture_is_named(tmp_path):
    (tmp_path / "a.png").write_bytes(b"not a picture")
    with load(tmp_path) as data, pytest.raises(DatasetError, match=r"'a\.png' is not a readable"):
        data.item(0)
