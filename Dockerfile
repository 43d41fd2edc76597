# Python 3.11.17 on Debian 13, of October 2026. The digest counts; `make base` writes the newest one.
FROM python:3.11-slim@sha256:0dd364ba7e10242f07755449e3a3d0e35f9efd987952737b90def6709ab0c5ce AS base

# Go 1.26.8: what it needs besides comes from modules, whose hashes are in Go's checksum database.
FROM golang:1.26-trixie@sha256:bdca99a00bc16590cb1a0bb4e698f5fc5d6a64e4d5eef13d9f18a0ee08e5fa65 AS litestream
# The version and the flags are the Makefile's. Without C: it runs on the other base, too.
RUN CGO_ENABLED=0 go install -trimpath -ldflags="-s -w" github.com/benbjohnson/litestream/cmd/litestream@v0.5.18

FROM base AS build
WORKDIR /src
# uv and hatchling, in a venv of their own, so that they stay out of the image. Only wheels, here and below: a source
# distribution would fetch what builds it, which no lock names.
COPY requirements.build.lock ./
RUN python -m venv /opt/build \
    && /opt/build/bin/pip install --no-cache-dir --disable-pip-version-check --only-binary :all: \
        --require-hashes --requirement requirements.build.lock
# Bytecode is made here, because nothing may be written beside the code at run time.
ENV VIRTUAL_ENV=/opt/metamorph UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy
# Before the sources: a change of theirs alone installs no dependency again.
COPY requirements.runtime.lock ./
RUN /opt/build/bin/uv venv --python "$(command -v python)" /opt/metamorph \
    && /opt/build/bin/uv pip sync --only-binary :all: --require-hashes requirements.runtime.lock
COPY pyproject.toml README.md ./
COPY clients/python clients/python
COPY server server
# From here on nothing is fetched.
RUN /opt/build/bin/pip wheel --quiet --no-index --no-deps --no-build-isolation --check-build-dependencies \
        --wheel-dir wheels ./clients/python . \
    && /opt/build/bin/uv pip install --offline --no-deps wheels/*.whl

FROM base
# The image starts as root, because Railway mounts a volume as root, and only at run time: `unprivileged` makes it this
# user's, and then becomes this user. `--user 10001:10001` works too, with no capability and a read-only root: a named
# volume of Docker's takes its owner from /data.
RUN groupadd --gid 10001 metamorph \
    && useradd --uid 10001 --gid metamorph --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin metamorph \
    && install -d -o metamorph -g metamorph /data
COPY deploy/unprivileged /usr/local/bin/
COPY --from=litestream /go/bin/litestream /usr/local/bin/
COPY --from=build /opt/metamorph /opt/metamorph
# Two arenas: glibc would give each thread its own, and keep what they free. Set, the threshold stays where it is: glibc
# would raise it with every large block that is freed, and keep what a burst of calls took. Large blocks are in huge
# pages: the faults of pages of 4 KiB take most of the time in which a request of megabytes is copied.
ENV PATH=/opt/metamorph/bin:$PATH \
    GLIBC_TUNABLES=glibc.malloc.hugetlb=1 \
    MALLOC_ARENA_MAX=2 \
    MALLOC_TRIM_THRESHOLD_=131072 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    NODE_ENV=production \
    DATABASE_PATH=/data/metamorph.db
WORKDIR /opt/metamorph
# Used by nobody who does not name it: `deploy/replicate` in place of the command below replicates to REPLICA_URL.
COPY deploy/replicate deploy/litestream.yml deploy/
EXPOSE 3001 50051
# For Docker. Railway asks /health itself, while it deploys.
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s CMD ["python", "-c", "import os, urllib.request as http; \
http.urlopen('http://127.0.0.1:' + os.environ.get('PORT', '3001') + '/health', timeout=4)"]
# Turns that run get SHUTDOWN_GRACE_SECONDS to finish, and then what they wrote is replicated. Docker would wait 10
# seconds: `--stop-timeout 50`.
STOPSIGNAL SIGTERM
ENTRYPOINT ["unprivileged"]
CMD ["metamorph", "serve"]
# Last, because it changes with each commit. Railway gives the first one to builds that ask for it.
ARG RAILWAY_GIT_COMMIT_SHA=
ARG REVISION=$RAILWAY_GIT_COMMIT_SHA
LABEL org.opencontainers.image.title="metamorph" \
    org.opencontainers.image.description="Multi-tenant chat backend for internal services, served over gRPC" \
    org.opencontainers.image.version="0.1.0" \
    org.opencontainers.image.revision="$REVISION" \
    org.opencontainers.image.base.name="docker.io/library/python:3.11-slim"
