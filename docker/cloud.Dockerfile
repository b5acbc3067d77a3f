# The cloud, and the `elsa` command for whoever submits runs or keeps the authority: no torch.
#
#   docker build -f docker/cloud.Dockerfile -t elsa-cloud .
#
# Build arguments:
#   PIP_EXTRA_INDEX_URL  another package index beside PyPI
#   VERSION, REVISION    what the image's labels say (org.opencontainers.image.version, .revision)

FROM python:3.11-slim AS requirements
COPY docker/requirements.py pyproject.toml /
RUN python /requirements.py /pyproject.toml postgres > /requirements.txt

FROM python:3.11-slim AS packages
ARG PIP_EXTRA_INDEX_URL
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
RUN python -m venv --without-pip /opt/elsa
COPY constraints.txt /
COPY --from=requirements /requirements.txt /
# Packages' own tests stay behind, and what only a compiler or a type checker reads.
RUN pip --python /opt/elsa/bin/python install -c /constraints.txt -r /requirements.txt \
 && find /opt/elsa/lib -type d -name tests -prune -exec rm -r {} + \
 && find /opt/elsa/lib -name '*.py[ix]' -delete -o -name '*.pxd' -delete -o -name '*.[ch]' -delete

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
 && mkdir -p /etc/elsa/tls
COPY --from=packages /opt/elsa /opt/elsa
COPY --from=project /project/opt/elsa /opt/elsa
ENV PATH=/opt/elsa/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/var/lib/elsa \
    ELSA_HOST=0.0.0.0 ELSA_PROBE_PORT=7480 ELSA_STATE=/var/lib/elsa/state
WORKDIR /var/lib/elsa
USER 10001:10001
VOLUME /var/lib/elsa
EXPOSE 7400 7480 7490
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s CMD ["python", "-m", "services.rpc.healthy"]
ENTRYPOINT ["elsa"]
CMD ["cloud"]
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="ELSA cloud" \
      org.opencontainers.image.description="Keeps the fleet and the runs of ELSA, and aggregates adapters" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"
