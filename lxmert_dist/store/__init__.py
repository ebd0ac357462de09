"""The Zarr v3 feature store: layout, writer, reader, verification; every URI through fsspec."""

from lxmert_dist.store.read_settings import ReadSettings
from lxmert_dist.store.reader import Store, has_store, open_store
from lxmert_dist.store.sentences import SentenceTable
from lxmert_dist.store.shard import FeatureFigures, ShardPlace, write_shard
from lxmert_dist.store.split import Split
from lxmert_dist.store.split_writer import SplitWriter
from lxmert_dist.store.verification import verify
from lxmert_dist.store.writer import StoreWriter

__all__ = [
    "FeatureFigures",
    "ReadSettings",
    "SentenceTable",
    "ShardPlace",
    "Split",
    "SplitWriter",
    "Store",
    "StoreWriter",
    "has_store",
    "open_store",
    "verify",
    "write_shard",
]
