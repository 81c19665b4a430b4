// The file with a blind test's result: JSON with a checksum of its own text at the end, so that a slip in an editor is
// noticed by who reads it. It doesn't protect against someone who wants to forge a result.

const RESULT_KIND = "vaelens blind test";
const RESULT_SCHEMA = 1;

// A key each line and a trial each line.
function resultText(result) {
  const line = ([key, value]) => {
    const rows = key === "trials" && value.length ? value.map((trial) => `\n    ${JSON.stringify(trial)}`) : null;
    return `  ${JSON.stringify(key)}: ${rows ? `[${rows}\n  ]` : JSON.stringify(value)}`;
  };
  const text = `{\n${Object.entries(result).map(line).join(",\n")}`;
  return `${text},\n  "checksum": "${sha256(text)}"\n}\n`;
}

// test: a whole test as `runTest` leaves it; subject: what was tested, see `openBlindTest`.
function makeResult(test, subject) {
  const { blind, panels } = subject;
  const used = [...new Set(test.plan.map(({ image }) => image))].sort((a, b) => a - b); // a page may hold thousands
  const latents = (panel) => blind.decoders.map((_, i) => panel.layers.find((layer) => layer.decoder === i)?.latents ?? null);
  return {
    schema: RESULT_SCHEMA,
    kind: RESULT_KIND,
    run: test.run,
    page: blind.page,
    vaelens: blind.vaelens,
    finished: new Date().toISOString(),
    person: test.person,
    test: test.test,
    planned: test.plan.length,
    stopped_early: test.answers.length < test.plan.length,
    kinds: test.kinds,
    zoom: test.zoom,
    pixel_ratio: devicePixelRatio,
    decoders: blind.decoders,
    images: used.map((image) => {
      const { title, width, height } = panels[image];
      return { title, width, height, latents: latents(panels[image]) };
    }),
    trials: test.answers.map(({ answer, ms, zoom }, i) => {
      const { image, kind, region, a, b, x } = test.plan[i];
      return { image: used.indexOf(image), kind, ...region, a, b, x, answer, ms, zoom };
    }),
  };
}

// Offers a text as a file.
function saveText(text, name) {
  const url = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  const link = Object.assign(document.createElement("a"), { href: url, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), 60_000); // after the browser has read it
}
