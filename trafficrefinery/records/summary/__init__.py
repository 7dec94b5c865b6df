"""What a user has to know at the end of a run, the same in the terminal, in `summary.json` and in a notebook.

`summary.json` is written beside the records, whole or not at all, when they are complete; it does not depend on the
number of workers. One JSON object:

- `schema`: 1; it grows when a member changes its meaning or goes, not when one is added.
- `kind`: `summary`. `command`: `replay`, `run`, `run --file`, `profile`, `dataset build`.
- `versions`: of this program, Python and the packages that compute.
- `configuration`: `file`, and `sha256` of the effective configuration.
- `models`: of each its `folder`, and `sha256` of its manifest.
- `traces`: of each its `file`, `packets` read, the time of the `first` one as it is stored (seconds since the epoch;
  null without packets), and how many are older than the one before them (`backward`).
- `times`: what was decided of the times of all packets, in seconds since the epoch: the `first` and the `latest` one,
  strays left out (null without packets), by how much a packet was older than the latest before it where that is more
  than Grace (`most_behind_s`, else 0), and `steps_back`: where the clock was set back and the intervals began again,
  `from` the latest time `to` that of the next packet (the first 100; `counters` has their number).
- `left_out`: of each file that was named and not read its `file` and `why`.
- `damage`: of each trace that could not be read to its end its `file`, `position` (bytes, uncompressed) and `message`.
- `packets`: in all (`total`), `duplicates`, and `by_reason` as in `intervals.jsonl`.
- `counters`: the other counters of the packet path, by name.
- `services`: of each its `flows`, `packets`, `bytes`, `records`, `segments` (null where none are counted), flows of
  which one side only was seen at their beginning (`one_sided`), and flows by what they were `matched_by`.
- `records`; for a replay also `sessions` and `extracted` (by `--write-pcap`), by service.
- `findings`: what the lines in the terminal say, the worst first; of each its `name`, which stays the same in all
  versions, `severity` (`error`: records are wrong or missing; `warning`; `note`), `count`, `of` and `share` (null where
  there is none), `message`, `remedy` (or null) and `items`: the files, keys or services that it is about.
- `complete`: false when a finding is an error; the command then ends with status 1.

Where each trace is processed separately there is such a file beside the result of each, and one for all of them: `kind`
is `summaries`, and `traces` has of each its `file`, `name` (of the folder of its result), `reused` (it was done before;
not of a dataset), `failure` (null, or why there is no result) and `damage`. `profile` has it in `costs.json` as
`summary`, `dataset build` in the manifest.
"""

from .findings import ERROR, NOTE, WARNING, Finding
from .making import Reading, Summary, TraceFindings, findings_of_all, make, make_many
from .summary_file import FILE, SCHEMA, remove, write

__all__ = [
    "ERROR",
    "FILE",
    "NOTE",
    "SCHEMA",
    "WARNING",
    "Finding",
    "Reading",
    "Summary",
    "TraceFindings",
    "findings_of_all",
    "make",
    "make_many",
    "remove",
    "write",
]
