"""Build a project as for an upload, and let twine and pyroma judge it.

Arguments: the folder of the project, an empty folder, the kinds of distributions. The last line
that it prints is JSON.
"""

import json
import sys
from pathlib import Path

import pyroma
from build import ProjectBuilder
from twine.commands.check import check

project, folder, *kinds = sys.argv[1:]
builder = ProjectBuilder(project)
built = [builder.build(kind, folder) for kind in kinds]
failed = check(built, strict=True)
rating = pyroma.run("directory", project)
names = [Path(path).name for path in built]
print(json.dumps({"built": names, "has_failed": failed, "rating": rating}))
