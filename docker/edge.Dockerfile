# An edge: the middle blocks of the model, for its clients. Its layer of torch and packages is the client's too.
#
#   docker build -f docker/edge.Dockerfile -t elsa-edge .
#
# Build arguments:
#   TORCH_INDEX_URL      where torch comes from, PyPI if empty, which for Linux has the build for CUDA; the index that
#                        PyTorch names for the CPU has one without, some gigabytes smaller
#   PIP_EXTRA_INDEX_URL  another package index beside PyPI, for all packages
#   VERSION, REVISION    what the image's labels say (org.opencontainers.image.version, .revision)
#
# From the first FROM to the last COPY this file and client.Dockerfile read alike, so that both images share those
# layers; a test compares them.

FROM python:3.11-slim AS requirements
COPY docker/requirements.py pyproject.toml /
RUN python /requirements.py /pyproject.toml train demo > /requirements.txt

FROM python:3.11-slim AS packages
ARG TORCH_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
RUN python -m venv --without-pip /opt/elsa
COPY constraints.txt /
RUN if [ -n "$TORCH_INDEX_URL" ]; then \
      pip --python /opt/elsa/bin/python install --no-deps --index-url "$TORCH_INDEX_URL" -c /constraints.txt torch; \
    fi
COPY --from=requirements /requirements.txt /
# Packages' own tests, and what only C++ on top of torch needs, stay behind: 0.2 GB.
RUN pip --python /opt/elsa/bin/python install -c /constraints.txt -r /requirements.txt \
 && find /opt/elsa/lib -type d -name tests -prune -exec rm -r {} + \
 && rm -rf /opt/elsa/lib/python*/site-packages/torch/test /opt/elsa/lib/python*/site-packages/torch/include

FROM packages AS project
RUN pip install -c /constraints.txt hatchling
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY elsa elsa
COPY services services
RUN pip wheel --no-deps --no-build-isolation --wheel-dir /wheels . \
 && pip --python /opt/elsa/bin/python install --no-deps --root /project /wheels/*.whl

FROM python:3.11-slim
RUN groupadd --gid 10001 elsa \
 && useradd --uid 10001 --gid elsa --home-dir /var/lib/elsa --create-home --shell /usr/sbin/nologin elsa \
 && mkdir -p /etc/elsa/tls /data /models
COPY --from=packages /opt/elsa /opt/elsa
COPY --from=project /project/opt/elsa /opt/elsa
ENV PATH=/opt/elsa/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/var/lib/elsa \
    XDG_CACHE_HOME=/var/lib/elsa/cache HF_HUB_DISABLE_TELEMETRY=1 ELSA_PROBE_PORT=7480 \
    ELSA_HOST=0.0.0.0 ELSA_PORT=7500 ELSA_STATE=/var/lib/elsa/state
WORKDIR /var/lib/elsa
USER 10001:10001
VOLUME /var/lib/elsa
EXPOSE 7500 7480 7490
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s CMD ["python", "-m", "services.rpc.healthy"]
ENTRYPOINT ["elsa"]
CMD ["edge"]
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="ELSA edge" \
      org.opencontainers.image.description="Holds the middle blocks of a model and trains them with ELSA clients" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"
