# walvault in a container: receives WAL from one server into the archive under /var/lib/walvault.
#
#   docker build --tag walvault .
#   docker run --env PGHOST=db --env PGUSER=replicator --env PGPASSWORD --volume walvault:/var/lib/walvault walvault --slot walvault
#
# Certificates and password files are read from /etc/walvault. Nothing but /var/lib/walvault can be written and nothing
# else is read: the image runs the program under Deno's permissions (tasks/permissions.ts), not as a compiled executable,
# because `deno compile` downloads a second runtime from a server that a closed build network does not reach. What is
# baked in is the same: `deno task compile:sandboxed` makes that executable where it can be had.

# Build: dependencies by the lock file's checksums, types checked, everything in one JavaScript file.
FROM denoland/deno:debian-2.9.5 AS build
WORKDIR /build
COPY deno.json deno.lock ./
RUN deno ci
COPY . .
RUN deno check cli.ts mod.ts \
 && deno run --allow-all tasks/bundle.ts --archive /var/lib/walvault --read /etc/walvault --output /usr/lib/walvault

# Run: the runtime, one script, and a user without rights.
FROM debian:bookworm-slim
COPY --from=build /usr/bin/deno /usr/bin/deno
COPY --from=build /usr/lib/walvault /usr/lib/walvault
RUN ln -s /usr/lib/walvault/walvault /usr/bin/walvault \
 && groupadd --system --gid 10001 walvault \
 && useradd --system --uid 10001 --gid walvault --home-dir /etc/walvault --no-create-home --shell /usr/sbin/nologin walvault \
 && install --directory --owner=root --group=walvault --mode=0750 /etc/walvault \
 && install --directory --owner=walvault --group=walvault --mode=0700 /var/lib/walvault
USER 10001:10001
ENV WALVAULT_ARCHIVE=/var/lib/walvault \
    HOME=/etc/walvault \
    DENO_DIR=/nonexistent \
    DENO_NO_UPDATE_CHECK=1
VOLUME /var/lib/walvault
WORKDIR /var/lib/walvault
STOPSIGNAL SIGTERM
ENTRYPOINT ["walvault", "receive"]
