// Builds the contracts with npm's solc into the artefacts that the Python package carries.
//
//   node build.mjs [--out DIR]     DIR: ../src/steelyard/chain/artifacts unless told
//
// The output is a function of src/, package-lock.json and the settings below alone: the same bytes on every machine.
// tests/contracts/test_artifacts.py rebuilds it and compares.
import { createHash } from "node:crypto";
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

const solc = createRequire(import.meta.url)("solc");
const here = dirname(fileURLToPath(import.meta.url));
const outFlag = process.argv.indexOf("--out");
const out = outFlag > 0 ? resolve(process.argv[outFlag + 1]) : join(here, "../src/steelyard/chain/artifacts");

// What is deployed: OpenZeppelin's AccessManager as it comes, and our own.
const DEPLOYED = {
  AccessManager: "@openzeppelin/contracts/access/manager/AccessManager.sol",
  Yard: "src/Yard.sol",
  Registry: "src/Registry.sol",
  Escrow: "src/Escrow.sol",
  Ledger: "src/Ledger.sol",
  Court: "src/Court.sol",
  Proofs: "src/Proofs.sol",
  Rewards: "src/Rewards.sol",
  UptoProxy: "src/UptoProxy.sol",
};

const settings = {
  evmVersion: "prague",
  viaIR: true,
  optimizer: { enabled: true, runs: 10000 },
  outputSelection: { "*": { "*": ["abi", "evm.bytecode.object", "evm.deployedBytecode.object", "metadata"] } },
};

function read(path) {
  const root = path.startsWith("@") ? join(here, "node_modules") : here;
  return readFileSync(join(root, path), "utf8");
}

function compile() {
  const sources = Object.fromEntries(
    readdirSync(join(here, "src")).sort().map((file) => [`src/${file}`, { content: read(`src/${file}`) }]),
  );
  sources[DEPLOYED.AccessManager] = { content: read(DEPLOYED.AccessManager) };
  const findImport = (path) => {
    try {
      return { contents: read(path) };
    } catch (error) {
      return { error: String(error) };
    }
  };
  const input = JSON.stringify({ language: "Solidity", sources, settings });
  const result = JSON.parse(solc.compile(input, { import: findImport }));
  // A warning about our own sources is an error; OpenZeppelin's are theirs.
  const isOurs = (problem) => problem.severity === "error" || problem.sourceLocation?.file.startsWith("src/");
  const problems = (result.errors ?? []).filter(isOurs);
  for (const problem of problems) console.error(problem.formattedMessage);
  if (problems.length > 0) process.exit(1);
  return result.contracts;
}

function artifact(name, path, contract) {
  return {
    name,
    source: path,
    compiler: solc.version(),
    evmVersion: JSON.parse(contract.metadata).settings.evmVersion,
    // The metadata names the hash of every source and every setting; this is its own.
    metadataSha256: createHash("sha256").update(contract.metadata).digest("hex"),
    abi: contract.abi,
    bytecode: `0x${contract.evm.bytecode.object}`,
    deployedBytecode: `0x${contract.evm.deployedBytecode.object}`,
    metadata: contract.metadata,
  };
}

mkdirSync(out, { recursive: true });
const contracts = compile();
for (const [name, path] of Object.entries(DEPLOYED)) {
  const built = artifact(name, path, contracts[path][name]);
  writeFileSync(join(out, `${name}.json`), `${JSON.stringify(built, null, 1)}\n`);
  console.log(`${name}: ${(built.deployedBytecode.length - 2) / 2} bytes of runtime code`);
}
