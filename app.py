"""`python app.py` opens the page; a Hugging Face Space starts here too. `iris app` has options."""

from app.ui import SPACES, build, serve

demo = build(sample=True)

if __name__ == "__main__":
    serve(demo, embed=[SPACES])
