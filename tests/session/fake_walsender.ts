/** What a walsender says until it streams. */
import { concat, frame } from "../protocol/frames.ts";
import type { FakeConnection } from "./fake_server.ts";

const encoded = (value: string) => [...new TextEncoder().encode(value)];
export const READY = frame("Z", [0x49]);
export const COPY_BOTH = frame("W", [0, 0, 0]);

function versionAnswer(version: string): Uint8Array {
  const column = [...encoded("server_version_num"), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 25, 255, 255, 255, 255];
  return concat(
    frame("T", [0, 1, ...column, 255, 255, 0, 0]),
    frame("D", [0, 1, 0, 0, 0, version.length, ...encoded(version)]),
    frame("C", [...encoded("SHOW"), 0]),
    READY,
  );
}

/** Lets the client in, and waits for the command behind the first one. */
export async function logIn({ receive, send }: FakeConnection, version = "150018"): Promise<string> {
  await receive();
  send(frame("R", [0, 0, 0, 0]), frame("K", [0, 0, 0, 1, 0, 0, 0, 2]), READY);
  await receive();
  send(versionAnswer(version));
  return await receive();
}
