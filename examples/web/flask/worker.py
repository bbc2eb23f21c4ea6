"""What a worker imports: the functions, and an application for their context.

As a worker:   durasleep worker examples.web.flask.worker
"""

from examples.web.flask.shop import create_app, durasleep

create_app()

app = durasleep
