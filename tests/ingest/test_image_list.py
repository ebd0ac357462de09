"""Which images a folder, a list or a tar file has, what they are called, and their bytes."""

import pytest

from lxmert_dist.errors import DataError, StoreError
from lxmert_dist.ingest import image_list, list_images
from lxmert_dist.store import uri as uris
from photographs import write_photographs, write_tar


@pytest.fixture
def folder(tmp_path):
    return write_photographs(tmp_path / "photos", 5)


def contents(images):
    return {image.image_id: image.read() for image in images.images}


def test_a_folder_is_searched_to_its_depths(folder):
    (folder / "notes.txt").write_text("no image")
    found = list_images(str(folder))
    assert found.ignored == 1
    expected = {f"set{i % 3}/part/{i:03}" for i in range(5)}
    assert contents(found) == {name: (folder / f"{name}.jpg").read_bytes() for name in expected}


def test_tar_files_and_lists_have_the_same_images(folder, tmp_path):
    expected = contents(list_images(str(folder)))
    (tmp_path / "shards").mkdir()
    tar = write_tar(tmp_path / "shards" / "0.tar", folder)
    assert contents(list_images(str(tar))) == expected
    assert contents(list_images(str(tar.parent))) == expected
    names = sorted(expected)
    lines = [f"photos/{name}.jpg\t{name}" for name in names[:2]]
    lines += ["", f"{folder}/{names[2]}.jpg\t{names[2]}", f"file://{folder}/{names[3]}.jpg"]
    (tmp_path / "list.txt").write_text("\n".join(lines))
    listed = contents(list_images(str(tmp_path / "list.txt")))
    assert listed[names[1]] == expected[names[1]]
    assert listed[names[2]] == expected[names[2]]
    assert listed[f"file://{folder}/{names[3]}"] == expected[names[3]]
    (tmp_path / "tars.txt").write_text("shards/0.tar\n")
    assert contents(list_images(str(tmp_path / "tars.txt"))) == expected


def test_the_digest_tells_lists_apart_but_not_orders(folder, tmp_path):
    names = [f"set{i % 3}/part/{i:03}.jpg" for i in range(5)]
    digests = []
    for lines in (names, names[::-1], names[:4]):
        (folder / "list").write_text("\n".join(lines))
        digests.append(list_images(str(folder / "list")).digest)
    assert digests[0] == digests[1] != digests[2]


def test_two_images_of_one_name_are_refused_by_name(folder, tmp_path):
    (folder / "set0/part/000.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"two images are called 'set0/part/000'.*000\.jpg.*000"):
        list_images(str(folder))


def test_a_tar_file_that_is_cut_gives_what_is_before_and_says_so(folder, tmp_path):
    tar = write_tar(tmp_path / "a.tar", folder)
    whole = list_images(str(tar))
    last = max(whole.images, key=lambda image: image.start)
    data = tar.read_bytes()
    tar.write_bytes(data[: last.start + 100])
    found = list_images(str(tar))
    assert [image.image_id for image in found.images] == [i.image_id for i in whole.images]
    assert "cut or damaged" in found.refused[0].reason
    with pytest.raises(DataError, match="truncated: the tar file ends after 100 of"):
        found.images[-1].read()
    damaged = bytearray(data)
    damaged[last.start - 512 : last.start - 400] = b"?" * 112
    tar.write_bytes(damaged)
    found = list_images(str(tar))
    assert len(found.images) == len(whole.images) - 1
    assert "cut or damaged" in found.refused[0].reason


def test_what_is_no_list_of_images_is_named(tmp_path, folder):
    with pytest.raises(StoreError, match=r"nothing at .*nowhere"):
        list_images(str(tmp_path / "nowhere"))
    (tmp_path / "a.tar").write_bytes(b"no tar" * 200)
    with pytest.raises(DataError, match=r"a\.tar: no tar file"):
        list_images(str(tmp_path / "a.tar"))
    with pytest.raises(DataError, match="nor a list in UTF-8"):
        list_images(str(folder / "set0/part/000.jpg"))
    (tmp_path / "only").mkdir()
    (tmp_path / "only/a.txt").write_text("b")
    with pytest.raises(DataError, match="no images in it, but 1 other"):
        list_images(str(tmp_path / "only"))


def test_a_file_that_is_too_long_is_not_read(folder, monkeypatch):
    monkeypatch.setattr(image_list, "MAX_BYTES", 100)
    monkeypatch.setattr(uris, "read_bytes", None)
    with pytest.raises(DataError, match="bytes are more than 100"):
        list_images(str(folder)).images[0].read()


@pytest.mark.s3
def test_object_storage(s3, folder, tmp_path):
    expected = contents(list_images(str(folder)))
    for name, data in expected.items():
        uris.write_bytes(s3.uri(f"listed/photos/{name}.jpg"), data)
    uris.upload(write_tar(tmp_path / "a.tar", folder), s3.uri("tars/a.tar"))
    uris.write_bytes(s3.uri("listed/list.txt"), b"photos/set0/part/000.jpg\tzero\n")
    assert contents(list_images(s3.uri("listed/photos"))) == expected
    assert contents(list_images(s3.uri("tars/a.tar"))) == expected
    assert contents(list_images(s3.uri("tars"))) == expected
    assert contents(list_images(s3.uri("listed/list.txt")))["zero"] == expected["set0/part/000"]
