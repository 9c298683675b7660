import assert from "node:assert/strict";
import { describe, it } from "node:test";
import fc from "fast-check";
import {
  BackendSplitter,
  checkDataRow,
  decodeColumnCount,
  decodeParameterStatus,
  decodeServerMessage,
  MAX_MESSAGE_BYTES,
} from "../../lib/protocol/backend_messages.ts";
import { ProtocolError } from "../../lib/protocol/errors.ts";
import { concat, errorFields, frame, walBytes } from "./frames.ts";

function splitAll(parts: readonly Uint8Array[]) {
  const splitter = new BackendSplitter();
  const messages: { type: string; body: number[] }[] = [];
  for (const bytes of parts) {
    const cursor = { bytes, index: 0 };
    for (let message = splitter.next(cursor); message !== undefined; message = splitter.next(cursor)) {
      assert.deepEqual([...message.frame.subarray(5)], [...message.body]);
      messages.push({ type: String.fromCharCode(message.type), body: [...message.body] });
    }
    assert.equal(cursor.index, bytes.length);
  }
  return { messages, splitter };
}

const BYTES = concat(frame("Z", [0x49]), frame("c", []), frame("D", walBytes(30)), frame("C", [65, 0]));
const WANT = [
  { type: "Z", body: [0x49] },
  { type: "c", body: [] },
  { type: "D", body: [...walBytes(30)] },
  { type: "C", body: [65, 0] },
];

describe("BackendSplitter", () => {
  it("gives the same messages cut in two at each byte", () => {
    for (let i = 0; i <= BYTES.length; i++) {
      const { messages, splitter } = splitAll([BYTES.subarray(0, i), BYTES.subarray(i)]);
      assert.deepEqual(messages, WANT, `cut at ${i}`);
      assert.ok(splitter.atBoundary);
    }
  });

  it("gives the same messages byte by byte", () => {
    assert.deepEqual(splitAll(Array.from(BYTES, (byte) => Uint8Array.of(byte))).messages, WANT);
  });

  it("invents no message when truncated at each byte", () => {
    for (let i = 0; i < BYTES.length; i++) {
      const { messages } = splitAll([BYTES.subarray(0, i)]);
      assert.deepEqual(messages, WANT.slice(0, messages.length));
      assert.ok(messages.length < WANT.length);
    }
  });

  for (const length of [0, 3, MAX_MESSAGE_BYTES + 1, 0x7fff_ffff, 0xffff_ffff]) {
    it(`refuses length ${length}, whole or cut`, () => {
      const bytes = new Uint8Array(60);
      bytes[0] = 0x45;
      new DataView(bytes.buffer).setUint32(1, length);
      assert.throws(() => splitAll([bytes]), ProtocolError);
      assert.throws(() => splitAll([bytes.subarray(0, 3), bytes.subarray(3)]), ProtocolError);
    });
  }

  it("takes the longest message", () => {
    const bytes = frame("D", new Uint8Array(MAX_MESSAGE_BYTES - 4));
    assert.equal(splitAll([bytes.subarray(0, 70_000), bytes.subarray(70_000)]).messages.length, 1);
  });
});

describe("decodeServerMessage()", () => {
  const body = errorFields("SFEHLER", "VFATAL", "C57P01", "Mgoing down", "Dmore", "Hwait", "Xodd");

  it("reads the fields, the untranslated severity first", () => {
    const said = decodeServerMessage(body);
    assert.deepEqual(
      [said.severity, said.sqlState, said.message, said.detail, said.hint, said.fields.get("X")],
      ["FATAL", "57P01", "going down", "more", "wait", "odd"],
    );
    assert.equal(decodeServerMessage(errorFields("SERROR", "C42704", "Mno")).severity, "ERROR");
  });

  it("refuses it truncated at each byte", () => {
    for (let i = 0; i < body.length; i++) {
      assert.throws(() => decodeServerMessage(body.subarray(0, i)), ProtocolError, `at ${i}`);
    }
  });

  for (const left of ["S", "C", "M"]) {
    it(`refuses it without field ${left}`, () => {
      const fields = ["SERROR", "C42704", "Mno"].filter((field) => !field.startsWith(left));
      assert.throws(() => decodeServerMessage(errorFields(...fields)), ProtocolError);
    });
  }

  it("refuses bytes after the end", () => {
    assert.throws(() => decodeServerMessage(concat(body, Uint8Array.of(65, 0))), ProtocolError);
  });

  it("decodes or refuses noise", () => {
    fc.assert(fc.property(fc.uint8Array({ maxLength: 60 }), (noise) => {
      for (const decode of [decodeServerMessage, decodeParameterStatus]) {
        try {
          decode(noise);
        } catch (error) {
          assert.ok(error instanceof ProtocolError);
        }
      }
    }));
  });
});

describe("decodeParameterStatus()", () => {
  const body = new TextEncoder().encode("in_hot_standby\0off\0");

  it("reads name and value", () => {
    assert.deepEqual(decodeParameterStatus(body), { name: "in_hot_standby", value: "off" });
  });

  it("refuses it truncated at each byte, or with more behind", () => {
    for (let i = 0; i < body.length; i++) {
      assert.throws(() => decodeParameterStatus(body.subarray(0, i)), ProtocolError);
    }
    assert.throws(() => decodeParameterStatus(concat(body, Uint8Array.of(0))), ProtocolError);
  });
});

describe("rows", () => {
  const column = (name: string) => [...new TextEncoder().encode(name), 0, ...new Uint8Array(18)];
  const description = Uint8Array.from([0, 2, ...column("a"), ...column("")]);
  const row = Uint8Array.from([0, 3, 0, 0, 0, 2, 65, 66, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]);

  it("decodeColumnCount() wants as many columns as it says, and no more", () => {
    assert.equal(decodeColumnCount(description), 2);
    assert.equal(decodeColumnCount(Uint8Array.of(0, 0)), 0);
    for (let i = 0; i < description.length; i++) {
      assert.throws(() => decodeColumnCount(description.subarray(0, i)), ProtocolError, `at ${i}`);
    }
    assert.throws(() => decodeColumnCount(concat(description, Uint8Array.of(0))), ProtocolError);
    assert.throws(() => decodeColumnCount(Uint8Array.of(0xff, 0xff, 0)), ProtocolError);
  });

  it("checkDataRow() wants as many values as there are columns, and no more", () => {
    checkDataRow(row, 3);
    assert.throws(() => checkDataRow(row, 2), ProtocolError);
    for (let i = 0; i < row.length; i++) {
      assert.throws(() => checkDataRow(row.subarray(0, i), 3), ProtocolError, `at ${i}`);
    }
    assert.throws(() => checkDataRow(concat(row, Uint8Array.of(0)), 3), ProtocolError);
    assert.throws(() => checkDataRow(Uint8Array.of(0, 1, 0xff, 0xff, 0xff, 0xfe), 1), ProtocolError);
  });
});
