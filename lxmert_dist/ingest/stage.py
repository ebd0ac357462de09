"""What was done of an extraction so far: beside the store to be, until that is finished.

```
<out>.stage/job.json                 what it is made of: only the same job goes on with it
<out>.stage/tasks/<n>.safetensors    the records of a task's images
<out>.stage/tasks/<n>.json           their names, what was refused, length and SHA-256 of the other;
                                     written last, so a task that has it is done
```
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

from lxmert_dist.errors import CorruptObjectError, StoreError
from lxmert_dist.ingest.image_list import Refusal
from lxmert_dist.schema import RoiRecord
from lxmert_dist.store import uri as uris
from lxmert_dist.store.manifest import canonical_json

TASKS, JOB_KEY = "tasks", "job.json"
_ARRAYS = ("boxes", "object_ids", "object_scores", "attribute_ids", "attribute_scores")
_READERS = 8


@dataclass(frozen=True)
class TaskSummary:
    """What a finished task says of itself, in the order of its images."""

    number: int
    image_ids: Sequence[str]
    refused: Sequence[Refusal]


class Stage:
    """The place of a job's finished tasks; small, and at home in any process."""

    def __init__(self, uri: str, feature_dtype: str) -> None:
        """Look at nothing yet.

        Args:
            uri: of the stage.
            feature_dtype: in which features are kept: that of the store.
        """
        self.uri = uri
        self._dtype = np.dtype(feature_dtype)

    def begin(self, job: Mapping[str, Any], *, anew: bool) -> None:
        """Claim the place for a job.

        Args:
            job: JSON values.
            anew: delete what another job left, instead of refusing to begin.

        Raises:
            StoreError: another job was begun there, or something else is there.
        """
        before = self.job()
        if before is None and not uris.is_empty(self.uri):
            raise StoreError(
                f"{uris.shown(self.uri)} holds something that no extraction left; move it away"
            )
        wanted = json.loads(canonical_json(job))
        if before == wanted:
            return
        if before is not None:
            if not anew:
                changed = sorted(k for k in {*before, *wanted} if before.get(k) != wanted.get(k))
                raise StoreError(
                    f"{uris.shown(self.uri)} was begun with other {', '.join(changed)}; give the "
                    "same again, or --overwrite to begin anew, or another --out"
                )
            self.delete()
        uris.write_bytes(uris.join(self.uri, JOB_KEY), canonical_json(job))

    def job(self) -> dict[str, Any] | None:
        """What was begun there, or None."""
        try:
            return dict(json.loads(uris.read_bytes(uris.join(self.uri, JOB_KEY))))
        except (uris.MissingError, ValueError, TypeError):
            return None

    def delete(self) -> None:
        """Remove all of it, the job last."""
        uris.delete_tree(uris.join(self.uri, TASKS))
        uris.delete_tree(self.uri)

    def write(self, number: int, records: Sequence[RoiRecord], refused: Sequence[Refusal]) -> None:
        """Keep the result of a task: the data, then what vouches for them.

        Raises:
            StoreError: the place cannot be written.
        """
        data = self._encode(records)
        summary = {
            "image_ids": [record.image_id for record in records],
            "refused": [asdict(refusal) for refusal in refused],
            "num_bytes": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
        }
        uris.write_bytes(self._key(number, "safetensors"), data)
        uris.write_bytes(self._key(number, "json"), canonical_json(summary))

    def finished(self) -> tuple[dict[int, TaskSummary], int]:
        """The tasks whose data are sound, by number; all are read. Others are deleted.

        Returns:
            The tasks, and how many were there but damaged.

        Raises:
            StoreError: the place is out of reach.
        """
        names = [name.partition(".") for name in uris.list_dir(uris.join(self.uri, TASKS))]
        numbers = sorted(int(n) for n, _, suffix in names if suffix == "json" and n.isdecimal())
        with ThreadPoolExecutor(_READERS) as pool:
            found = dict(zip(numbers, pool.map(self._sound, numbers), strict=True))
        return {n: summary for n, summary in found.items() if summary}, sum(
            summary is None for summary in found.values()
        )

    def summary(self, number: int) -> TaskSummary:
        """What a finished task says of itself; errors as :meth:`read`."""
        return self._load(number)[0]

    def read(self, number: int) -> Iterator[RoiRecord]:
        """The records of a finished task.

        Raises:
            CorruptObjectError: they are damaged; running the command again does the task anew.
            StoreError: they are missing or out of reach.
        """
        summary, data = self._load(number)
        if not summary.image_ids:
            return
        ends = np.cumsum(data["num_boxes"])
        for row, image_id in enumerate(summary.image_ids):
            boxes = slice(int(ends[row] - data["num_boxes"][row]), int(ends[row]))
            height, width = data["sizes"][row].tolist()
            yield RoiRecord(
                image_id=image_id,
                height=height,
                width=width,
                roi_features=data["roi_features"][boxes].astype(np.float32),
                **{name: data[name][boxes] for name in _ARRAYS},
            )

    def _encode(self, records: Sequence[RoiRecord]) -> bytes:
        if not records:
            return save({})
        arrays: dict[str, npt.NDArray[Any]] = {
            name: np.concatenate([getattr(record, name) for record in records])
            for name in (*_ARRAYS, "roi_features")
        }
        arrays["roi_features"] = arrays["roi_features"].astype(self._dtype)
        arrays["num_boxes"] = np.array([len(record.boxes) for record in records], np.int64)
        arrays["sizes"] = np.array([(r.height, r.width) for r in records], np.int64)
        return save(arrays)

    def _load(self, number: int) -> tuple[TaskSummary, dict[str, npt.NDArray[Any]]]:
        place = self._key(number, "json")
        try:
            said = json.loads(uris.read_bytes(place))
            data = uris.read_bytes(self._key(number, "safetensors"))
            if len(data) != said["num_bytes"] or hashlib.sha256(data).hexdigest() != said["sha256"]:
                raise ValueError("length or checksum")
            refused = [Refusal(**refusal) for refusal in said["refused"]]
            return TaskSummary(number, said["image_ids"], refused), load(data)
        except (ValueError, KeyError, TypeError, SafetensorError) as error:
            raise CorruptObjectError(
                f"{uris.shown(place)} or its data are damaged ({error}); run the same command again"
            ) from error

    def _sound(self, number: int) -> TaskSummary | None:
        try:
            return self.summary(number)
        except (CorruptObjectError, uris.MissingError):
            uris.delete_tree(self._key(number, "json"))
            return None

    def _key(self, number: int, suffix: str) -> str:
        return uris.join(self.uri, TASKS, f"{number:07d}.{suffix}")
