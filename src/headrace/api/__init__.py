"""The Python API: the commands of the command line as methods of `headrace.project()`."""

from headrace.api.listing import Listing
from headrace.api.models import OpenModel
from headrace.api.open_project import OpenProject, project
from headrace.api.rows import Rows

__all__ = ["Listing", "OpenModel", "OpenProject", "Rows", "project"]
