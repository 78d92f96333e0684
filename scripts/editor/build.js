/** Bundle CodeMirror into the page's `vendor`, with the licences of what is inside: `make editor`. */

import { readFile, writeFile } from "node:fs/promises";
import { build } from "esbuild";

const vendor = new URL("../../src/rerail/server/page/vendor/", import.meta.url);
const options = {
  entryPoints: ["codemirror.js"],
  bundle: true,
  format: "esm",
  minify: true,
  target: "es2022",
  charset: "utf8",
  legalComments: "none",
  metafile: true,
  write: false,
};

const { metafile, outputFiles } = await build(options);
const [output] = Object.values(metafile.outputs);
const inside = Object.entries(output.inputs)
  .filter(([, { bytesInOutput }]) => bytesInOutput > 0)
  .map(([path]) => /node_modules\/((?:@[^/]+\/)?[^/]+)/.exec(path)?.[1]);
const names = [...new Set(inside)].filter(Boolean).sort();

const packages = [];
for (const name of names) {
  const { version } = JSON.parse(await readFile(`node_modules/${name}/package.json`, "utf8"));
  packages.push({ name, version, licence: await readFile(`node_modules/${name}/LICENSE`, "utf8") });
}

const versions = packages.map(({ name, version }) => ` * ${name} ${version}\n`).join("");
const banner = `/*!\n${versions} * Made by \`make editor\`; licences: codemirror.LICENSE.\n */\n`;
await writeFile(new URL("codemirror.esm.js", vendor), banner + outputFiles[0].text);

const licences = packages.map(({ name, licence }) => `${name}\n\n${licence.trim()}\n`);
await writeFile(new URL("codemirror.LICENSE", vendor), licences.join("\n\n"));
console.log(`${versions}${outputFiles[0].contents.length} bytes`);
