"""What holds for all tests."""

import os

os.environ["COLUMNS"] = "140"  # tables are as wide wherever tests run; their worker processes would say 80
