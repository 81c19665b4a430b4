// What the page says around the viewer, in English and Japanese. The language is the viewer's: <html lang>.

const WORDS = {
  en: {
    lead: "One latent, every decoder: type a prompt or upload an image, tick VAEs, and look at what differs.",
    lost: "The server doesn't answer. This page goes on as soon as it is back.",
    prompt: "What should the image show?", try: "Try: {text}",
    upload: "Upload an image", orDrop: "or drop or paste one here", remove: "Remove", uploading: "Uploading {name}",
    model: "Model", vaes: "VAEs to compare", notSpace: "another latent space ({space})", ownOf: "belongs to {name}",
    seeds: "Seeds", seedsHint: "several with spaces, at most 16", nextSeed: "Next seed",
    more: "More", steps: "Steps", cfg: "Guidance", size: "Size", scheduler: "Scheduler", modelsOwn: "the model's own",
    negative: "Negative prompt", go: "Go",
    nothing: "What you ask for appears here.",
    queue: "Queue", history: "History", cancel: "Cancel", delete: "Delete", again: "Use these settings",
    queued: "waiting", running: "at work", done: "finished", failed: "failed", cancelled: "cancelled",
    interrupted: "interrupted: the server ended first", loading: "loading the model and the VAEs",
    stepOf: "{done} of {total}", cancelling: "cancelling",
    download: "Download", page: "Page", sheet: "Sheet", record: "Record", show: "Show {title}",
    older: "Show older ones", told: "{title}: {state}.", maxSide: "Longest side in pixels; larger images are shrunk",
    progress: "Progress", sureDelete: "Delete this result and its files?",
    noVae: "Tick at least one VAE.", badSeeds: "Seeds are whole numbers from -2^63 to 2^64 - 1, at most 16.", notNumber: "{name}: type a number.", noSubject: "Say what the image should show, or upload one.",
    notImage: "That is no image.", tooLarge: "That is more than 32 MiB.", unreachable: "The server doesn't answer.",
  },
  ja: {
    lead: "1 つの潜在表現を、すべてのデコーダーで。プロンプトを入力するか画像をアップロードし、VAE を選んで違いを見比べます。",
    lost: "サーバーが応答しません。復帰すると自動的に再開します。",
    prompt: "何を描きますか？", try: "例：{text}",
    upload: "画像をアップロード", orDrop: "またはここにドロップ・貼り付け", remove: "取り消す", uploading: "{name} をアップロード中",
    model: "モデル", vaes: "比較する VAE", notSpace: "潜在空間が異なります（{space}）", ownOf: "{name} 専用",
    seeds: "シード", seedsHint: "空白で区切って 16 個まで", nextSeed: "次のシード",
    more: "詳細設定", steps: "ステップ数", cfg: "ガイダンス", size: "サイズ", scheduler: "スケジューラー", modelsOwn: "モデルの既定",
    negative: "ネガティブプロンプト", go: "実行",
    nothing: "結果はここに表示されます。",
    queue: "待ち行列", history: "履歴", cancel: "中止", delete: "削除", again: "この設定を使う",
    queued: "待機中", running: "処理中", done: "完了", failed: "失敗", cancelled: "中止しました",
    interrupted: "サーバーの停止により中断", loading: "モデルと VAE を読み込み中",
    stepOf: "{done} / {total}", cancelling: "中止しています",
    download: "ダウンロード", page: "ページ", sheet: "一覧画像", record: "記録", show: "{title} を表示",
    older: "以前のものを表示", told: "{title}：{state}。", maxSide: "長辺の画素数（これより大きい画像は縮小）",
    progress: "進み具合", sureDelete: "この結果とファイルを削除しますか？",
    noVae: "VAE を 1 つ以上選んでください。", badSeeds: "シードは -2^63 から 2^64 - 1 までの整数で、16 個までです。", notNumber: "{name}：数値を入力してください。", noSubject: "描くものを入力するか、画像をアップロードしてください。",
    notImage: "画像ではありません。", tooLarge: "32 MiB を超えています。", unreachable: "サーバーが応答しません。",
  },
};

const tongue = () => (Object.hasOwn(WORDS, document.documentElement.lang) ? document.documentElement.lang : "en");

// The text of that name, {places} filled in; by a function, as "$&" in a name would take effect in a string.
function word(name, values = {}) {
  return (WORDS[tongue()][name] ?? name).replace(/\{(\w+)\}/g, (_, place) => values[place]);
}

function sayAll() {
  for (const element of document.querySelectorAll("[data-say]")) element.textContent = word(element.dataset.say);
}
