FROM python:3.11-slim AS build
# The version that scripts/install uses. In a venv of its own, so that it stays out of the image.
RUN python -m venv /opt/uv && /opt/uv/bin/pip install --no-cache-dir --disable-pip-version-check uv==0.13.9
# Bytecode is made here, because nothing may be written beside the code at run time.
ENV VIRTUAL_ENV=/opt/metamorph UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy
WORKDIR /src
# Before the sources: a change of theirs alone installs no dependency again.
COPY requirements.runtime.lock ./
RUN /opt/uv/bin/uv venv --python "$(command -v python)" /opt/metamorph \
    && /opt/uv/bin/uv pip sync --require-hashes requirements.runtime.lock
COPY pyproject.toml README.md ./
COPY clients/python clients/python
COPY server server
RUN /opt/uv/bin/uv pip install --no-deps --no-sources ./clients/python .

FROM python:3.11-slim
LABEL org.opencontainers.image.title="metamorph" \
    org.opencontainers.image.description="Multi-tenant chat backend, served over gRPC"
# The default is root, because Railway mounts a volume as root, and only at run time. `--user metamorph` works too: a
# named volume of Docker's takes its owner from this directory.
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin metamorph \
    && install -d -o metamorph -g metamorph /data
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
EXPOSE 3001 50051
# For Docker. Railway asks /health itself, while it deploys.
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s CMD ["python", "-c", "import os, urllib.request as http; \
http.urlopen('http://127.0.0.1:' + os.environ.get('PORT', '3001') + '/health', timeout=4)"]
CMD ["metamorph", "serve"]
