// Submits a run, follows it, and fetches its adapter, from Node.js: against the raw protos, without generated code.
//
//   cd examples/node && npm ci
//   node run_client.js ../docstrings.yaml adapter [HOST:PORT]
//
// Over TLS set ELSA_TLS_CA, ELSA_TLS_CERT and ELSA_TLS_KEY to the files of an admin (docs/identity.md); without them it
// calls this machine alone.
"use strict";

const fs = require("node:fs");
const net = require("node:net");
const path = require("node:path");
const grpc = require("@grpc/grpc-js");
const { loadSync } = require("@grpc/proto-loader");

const PROTOS = path.join(__dirname, "..", "..", "protos");
const SHAPE = { keepCase: true, longs: Number, enums: String, defaults: true, oneofs: true, includeDirs: [PROTOS] };

function connect(address) {
  const { RunService } = grpc.loadPackageDefinition(loadSync("elsa/v1/run.proto", SHAPE)).elsa.v1;
  const files = ["CA", "KEY", "CERT"].map((part) => process.env[`ELSA_TLS_${part}`]);
  if (!files.some(Boolean) && isLoopback(address)) return new RunService(address, grpc.credentials.createInsecure());
  if (!files.every(Boolean))
    throw new Error(`to call ${address}, set all of ELSA_TLS_CA, ELSA_TLS_CERT and ELSA_TLS_KEY`);
  const credentials = grpc.credentials.createSsl(...files.map((file) => fs.readFileSync(file)));
  return new RunService(address, credentials, { "grpc.ssl_target_name_override": "cloud.elsa.internal" });
}

function isLoopback(address) {
  const host = address.slice(0, address.lastIndexOf(":")).replace(/^\[|\]$/g, "");
  return host === "localhost" || host === "::1" || (net.isIPv4(host) && host.startsWith("127."));
}

function submit(runs, spec) {
  const deadline = Date.now() + 30_000;
  return new Promise((resolve, reject) =>
    runs.SubmitRun({ spec }, { deadline }, (error, answer) => (error ? reject(error) : resolve(answer.run_id))),
  );
}

async function follow(runs, run_id) {
  let state;
  for await (const { event } of runs.WatchRun({ run_id })) {
    if (event.state_changed) {
      state = event.state_changed.state;
      console.log(`${run_id}: ${state} ${event.state_changed.reason}`);
    } else if (event.evaluation_reported) {
      const { version, accuracy } = event.evaluation_reported.total;
      console.log(`${run_id}: version ${version}, accuracy ${accuracy.toFixed(3)}`);
    }
  }
  return state;
}

async function fetchAdapter(runs, run_id, folder) {
  fs.mkdirSync(folder, { recursive: true });
  let file;
  for await (const part of runs.ExportAdapter({ run_id })) {
    if (part.file) file = path.join(folder, path.basename(part.file.name));
    fs.writeFileSync(file, part.chunk ? part.chunk.data : "", { flag: part.file ? "w" : "a" });
  }
}

async function main(spec, folder, address = "127.0.0.1:7400") {
  let runs;
  try {
    runs = connect(address);
    const run_id = await submit(runs, fs.readFileSync(spec, "utf8"));
    if ((await follow(runs, run_id)) !== "RUN_STATE_COMPLETED") return 1;
    await fetchAdapter(runs, run_id, folder);
    return 0;
  } catch (error) {
    console.error(`${grpc.status[error.code] ?? "error"}: ${error.details ?? error.message}`);
    return 1;
  } finally {
    runs?.close();
  }
}

main(...process.argv.slice(2)).then((code) => (process.exitCode = code));
