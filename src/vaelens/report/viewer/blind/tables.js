// Numbers and tables of a blind test as text and elements.

const percent = (share) => `${Math.round(100 * share)}\u00a0%`;
const shareText = ({ rate, low, high }) => (Number.isNaN(rate) ? "–" : `${percent(rate)} (${percent(low)} – ${percent(high)})`);
const pText = (p) => (p < 0.001 ? "< 0.001" : p.toFixed(3));
const pSentence = (p) => (p < 0.001 ? "p\u00a0<\u00a00.001" : `p\u00a0=\u00a0${p.toFixed(3)}`);

// Two digits with a sign, as `vaelens blind` writes them; never a negative zero.
function signed(value) {
  const text = Math.abs(value).toFixed(2);
  return `${value < 0 && Number(text) ? "−" : "+"}${text}`;
}

// A table of texts; columns from the second on are numbers.
function tableOf(head, rows) {
  const wide = document.createElement("div");
  wide.className = "wide";
  const table = wide.appendChild(document.createElement("table"));
  const line = (place, tag, texts) => {
    const row = place.appendChild(document.createElement("tr"));
    texts.forEach((text, i) => {
      const cell = row.appendChild(document.createElement(tag));
      cell.textContent = text;
      if (i) cell.className = "number";
      if (tag === "th") cell.scope = "col";
    });
  };
  line(table.appendChild(document.createElement("thead")), "th", head);
  const body = table.appendChild(document.createElement("tbody"));
  for (const row of rows) line(body, "td", row);
  return wide;
}

function heading(text) {
  return Object.assign(document.createElement("h2"), { textContent: text });
}

function folded(title, content) {
  const details = document.createElement("details");
  details.append(Object.assign(document.createElement("summary"), { textContent: title }), content);
  return details;
}

function sentence(text, className = "") {
  return Object.assign(document.createElement("p"), { textContent: text, className });
}

// What the result says, as elements in order: a sentence for each pair, then the tables.
function describe(result) {
  const found = summarise(result);
  const name = (i) => result.decoders[i].name;
  const versus = ([i, j]) => say("versus", { first: name(i), second: name(j) });
  const abx = result.test === "abx";
  const counted = ({ hits, trials }) => say("ofTrials", { hits, trials });
  const cells = (row) => [counted(row), shareText(row), pText(row.p)];
  const head = abx ? ["hits", "hitRate", "pOneSided"] : ["firstPreferred", "share", "pTwoSided"];
  const parts = found.pairs.map((row) => sentence(verdict(row, name, result.test)));
  const pairRows = found.pairs.map((row) => [versus(row.pair), ...cells(row)]);
  if (found.together) {
    const { hits, trials, p } = found.together;
    parts.push(sentence(say(p <= 0.05 ? "togetherShown" : "togetherNotShown", { hits, trials, p: pSentence(p) })));
    pairRows.push([say("together"), ...cells(found.together)]);
  }
  if (pairRows.length) parts.push(tableOf([say("pair"), ...head.map((key) => say(key))], pairRows), sentence([say(`${head[2]}About`), found.pairs.length > 1 ? say("severalTests") : ""].join(" "), "hint"));
  if (found.scores) parts.push(heading(say("scores")), ...describeScores(found.scores, name));
  const kinds = found.kinds.map((row) => [row.pair ? `${kindName(row.kind)}, ${versus(row.pair)}` : kindName(row.kind), ...cells(row)]);
  if (kinds.length > 1) parts.push(folded(say("byKind"), tableOf([say("place"), ...head.map((key) => say(key))], kinds)));
  if (!abx) parts.push(heading(say("howSteady")), ...describeSteadiness(found));
  return parts;
}

function verdict({ pair, hits, trials, p }, name, test) {
  const shown = p <= 0.05;
  const [first, second] = [name(pair[0]), name(pair[1])];
  if (fewestHits(trials, levelOf(test)) === null) return say("tooFew", { hits, trials, p: pSentence(p), first, second });
  if (test === "abx") {
    const chance = percent(power(trials, 0.75));
    return say(shown ? "abxShown" : "abxNotShown", { hits, trials, p: pSentence(p), first, second, chance, guessed: percent(p) });
  }
  const more = 2 * hits >= trials;
  const values = { hits: more ? hits : trials - hits, trials, p: pSentence(p), winner: more ? first : second, first, second, guessed: percent(p) };
  return say(`${test}${shown ? "Shown" : "NotShown"}`, values);
}

function describeScores({ decoders, scores, separated, neverMet }, name) {
  const listed = (group) => group.map((i) => name(decoders[i])).join(", ");
  if (!scores) return [sentence(say(neverMet ? "neverMet" : "separated", { group: listed(separated[0]), rest: listed(separated[1]) }))];
  const rows = scores.map(({ value, low, high }, i) => [name(decoders[i]), signed(value), `[${signed(low)}, ${signed(high)}]`]);
  return [sentence(say("scoresAbout")), tableOf([say("decoder"), say("score"), say("interval")], rows)];
}

function describeSteadiness({ same, left, repeats }) {
  const parts = [];
  if (same.trials) parts.push(sentence(say("sameChosen", same)));
  if (left.trials) parts.push(sentence(say("leftChosen", left)));
  if (repeats.trials) parts.push(sentence(say("repeated", repeats)));
  return parts;
}

// A kind of place by its title in the viewer, or a user's label as it is.
function kindName(kind) {
  if (kind === "difference") return say("kindDifference");
  if (kind === "random") return say("kindRandom");
  return kind === "letters" || KNOWN.includes(kind) ? say(kind) : kind;
}
