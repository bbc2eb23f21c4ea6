#!/usr/bin/env python
"""The commands of this project.

python manage.py migrate
python manage.py runserver               # or: uvicorn shop.asgi:application
python manage.py durasleep worker        # in another terminal; also: durasleep ls, durasleep get order-1, ...
"""

import os
import sys

from django.core.management import execute_from_command_line

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")
    execute_from_command_line(sys.argv)
