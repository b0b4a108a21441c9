# One stage builds (the engine and pyasn need a C compiler), the other only runs: no compiler, no shell needed, no root.
#
#   docker build -t dnsd .
#   docker run --read-only --tmpfs /tmp -v dnsd:/var/lib/dnsd -p 53:5300/udp -p 53:5300/tcp dnsd
#
# Mount your own settings over /etc/dnsd/dnsd.toml; as it is, the image serves the demo's zone.

FROM python:3.11-slim-bookworm AS build
RUN apt-get update \
 && apt-get install -y --no-install-recommends gcc libc6-dev \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
RUN python -m venv /opt/dnsd
COPY requirements.lock ./
RUN /opt/dnsd/bin/pip install --no-cache-dir --require-hashes -r requirements.lock
COPY pyproject.toml setup.py README.md LICENSE ./
COPY dnsd ./dnsd
RUN DNSD_ENGINE=require /opt/dnsd/bin/pip install --no-cache-dir --no-deps --no-build-isolation .
COPY data /usr/share/dnsd/data
RUN DNSD_DATA__ATLAS=/usr/share/dnsd/atlas /opt/dnsd/bin/dnsd data build -c /usr/share/dnsd/data/demo/dnsd.toml \
 && chmod -R a+rX /usr/share/dnsd

FROM python:3.11-slim-bookworm
RUN useradd --system --uid 10053 --home-dir /var/lib/dnsd --shell /usr/sbin/nologin dnsd \
 && install -d -m 0700 -o dnsd -g dnsd /var/lib/dnsd
COPY --from=build /opt/dnsd /opt/dnsd
COPY --from=build /usr/share/dnsd /usr/share/dnsd
COPY data/demo /etc/dnsd
ENV PATH=/opt/dnsd/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    DNSD_CONFIG=/etc/dnsd/dnsd.toml \
    DNSD_STATE=/var/lib/dnsd \
    DNSD_LISTEN='["0.0.0.0:5300", "[::]:5300"]' \
    DNSD_DATA__DIRECTORY=/usr/share/dnsd/data \
    DNSD_DATA__ATLAS=/usr/share/dnsd/atlas
VOLUME /var/lib/dnsd
EXPOSE 5300/udp 5300/tcp
USER dnsd
# a DNS question, not a port check: only an answer counts
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 \
  CMD ["dnsd", "query", "demo.example", "SOA", "--server", "127.0.0.1:5300"]
ENTRYPOINT ["dnsd"]
CMD ["serve"]
