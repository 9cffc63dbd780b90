// Browsers start no worker from file://. There the search's worker runs in a hidden frame instead. (The theme would fetch such
// a script from the network, unless one of this name is configured.)
if (location.protocol === "file:")
  window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      const frame = document.createElement("iframe")
      frame.hidden = true
      document.body.append(frame)
      this.inside = frame.contentWindow
      this.inside.document.write(
        '<script>postMessage = data => parent.postMessage(data, "*")</script>' + `<script src="${url}"></script>`)
      this.inside.document.close()
      this.ready = new Promise(done => this.inside.addEventListener("load", done))
      window.addEventListener("message", ({ data, source }) => {
        if (source === this.inside) this.dispatchEvent(new MessageEvent("message", { data }))
      })
    }

    postMessage(data) {
      this.ready.then(() => this.inside.dispatchEvent(new MessageEvent("message", { data })))
    }
  }
