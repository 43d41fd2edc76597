import { X509Certificate } from "node:crypto";
import { readFileSync } from "node:fs";
import { createSecureContext, type SecureContextOptions } from "node:tls";
import { Http2SessionManager } from "@connectrpc/connect-node";
import { channel } from "./gen/channel.js";

/**
 * The files of TLS, each as a path, or as PEM in text or bytes. `ca` has the authorities to trust; without it, those
 * that Node trusts. `cert` and `key` show who the client is (mutual TLS).
 */
export interface TLS {
  ca?: string | Uint8Array | undefined;
  cert?: string | Uint8Array | undefined;
  key?: string | Uint8Array | undefined;
}

// A name, an address of IPv4, or one of IPv6 in brackets.
const TARGET = /^(grpcs?:\/\/)?((?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):([0-9]{1,5}))$/;
const LAST_PORT = 65_535;
// More than a program has in memory to send.
const SESSION_MEGABYTES = 65_536;
const PEM = "-----BEGIN ";

/** What is at the other end of a connection, which opens at the first call. */
export interface Connection {
  readonly baseUrl: string;
  readonly sessionManager: Http2SessionManager;
}

/** Returns a connection. Throws TypeError for arguments with which none could be made. */
export function connection(target: string, tls: boolean | TLS): Connection {
  const [, scheme, address, port] = TARGET.exec(target) ?? [];
  if (Number(port) > 0 && Number(port) <= LAST_PORT && URL.canParse(`http://${address}`)) {
    if (scheme === "grpc://" && tls) {
      throw new TypeError(`${target} is plaintext because of grpc://, and tls is given: leave out one of them`);
    }
    const secure = scheme === "grpcs://" || tls !== false;
    const baseUrl = `${secure ? "https" : "http"}://${address}`;
    const pings = {
      pingIntervalMs: channel.keepaliveTimeMs,
      pingTimeoutMs: channel.keepaliveTimeoutMs,
      // Never while idle: connect then pings sessions that ended with a stream, which ends the process (connect-es#1795).
      // A connection that was idle for long is verified before its next call.
      pingIdleConnection: false,
    };
    const files = secure && typeof tls === "object" ? pemOf(tls) : {};
    // Node's own limit of 10 MB for what is not yet sent refuses every call of a connection that has reached it.
    const options = { ...files, maxSessionMemory: SESSION_MEGABYTES };
    return { baseUrl, sessionManager: new Http2SessionManager(baseUrl, pings, options) };
  }
  throw new TypeError(
    `${JSON.stringify(target)} is not the address of a server: name one as host:port, as grpc://host:port, ` +
      "or as grpcs://host:port for TLS",
  );
}

function pemOf(tls: TLS): SecureContextOptions {
  if ((tls.cert === undefined) !== (tls.key === undefined)) {
    throw new TypeError("cert and key of tls go together: give both, or none");
  }
  const found: SecureContextOptions = {};
  for (const name of ["ca", "cert", "key"] as const) {
    const source = tls[name];
    if (source !== undefined) found[name] = read(name, source);
  }
  try {
    // Node ignores authorities that it cannot read.
    if (found.ca) new X509Certificate(found.ca as Buffer);
    createSecureContext(found);
  } catch (error) {
    throw new TypeError(`tls has PEM that cannot be used: ${(error as Error).message}`, { cause: error });
  }
  return found;
}

function read(name: string, source: string | Uint8Array): Buffer {
  let pem: Buffer;
  try {
    pem = typeof source === "string" && !source.includes(PEM) ? readFileSync(source) : Buffer.from(source as string);
  } catch (error) {
    throw new TypeError(`${name} of tls cannot be read: ${(error as Error).message}`, { cause: error });
  }
  if (!pem.includes(PEM)) throw new TypeError(`${name} of tls is no PEM: it has no line that begins with ${PEM}`);
  return pem;
}
