// The way of the drawing to the server: a moment after the last stroke, and never two uploads at a time.

const AFTER_STROKE_MS = 1000;
const AFTER_FAILURE_MS = 5000;

export class Saver {
  /** snapshot() → {id, structures, file: promise of a File}, as of the call. */
  constructor({ trigger, upload, snapshot, say }) {
    Object.assign(this, { trigger, upload, snapshot, say });
    this.dirty = false; // the server does not know the drawing as it is
    this.sending = null;
  }

  touch(wait = AFTER_STROKE_MS) {
    this.dirty = true;
    this.say("saving…");
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.send("input"), wait);
  }

  now() {
    this.touch(0);
  }

  /** Send what has not been sent yet. */
  async flush() {
    if (this.dirty) await this.send("input");
    else await this.sending;
  }

  forget() {
    this.dirty = false;
    clearTimeout(this.timer);
  }

  /** Upload the drawing and tell of it. Returns whether that worked. */
  async send(event, more = {}) {
    while (this.sending) await this.sending;
    this.forget();
    this.sending = this.deliver(event, more, this.snapshot());
    const worked = await this.sending;
    return worked;
  }

  async deliver(event, more, { id, structures, file }) {
    try {
      const { path } = await this.upload(await file);
      this.trigger(event, { id, ...more, path, structures });
      if (!this.dirty) this.say("saved");
      return true;
    } catch (error) {
      console.error(error);
      this.touch(AFTER_FAILURE_MS);
      this.say("The drawing could not be saved. Trying again.");
      return false;
    } finally {
      this.sending = null;
    }
  }
}
